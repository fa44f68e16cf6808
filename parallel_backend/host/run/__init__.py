"""One sampling run, from the seam to the latent."""
