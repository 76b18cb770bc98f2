"""What feeds what: layers, edges, junctions, and how a graph is declared, changed and drawn."""
