"""Everything behind the nodes: the process group, its host side and its rank side."""
