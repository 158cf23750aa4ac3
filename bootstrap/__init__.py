"""How a relay begins: keys of its first tunnel, and the user-data that make it of a server; at home or before."""
