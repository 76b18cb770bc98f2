"""Tables, pictures, sentences and pages of results."""
