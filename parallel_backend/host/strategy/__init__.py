"""How a run is divided: degrees, placement of weights, compiling."""
