"""Files of the library: safetensors with a checksum of all they hold, loaded without executing."""
