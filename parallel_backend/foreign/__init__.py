"""Whose code an object is, and what node packs replaced or changed in a process."""
