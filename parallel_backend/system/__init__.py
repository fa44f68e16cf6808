"""Files, memory and threads of this machine, whoever uses them."""
