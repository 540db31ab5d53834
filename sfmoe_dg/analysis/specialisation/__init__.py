"""How much an expert's choice tells about class and domain."""
