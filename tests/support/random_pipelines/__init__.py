"""PipeFusion in configurations drawn by chance, through a real server; run by scripts/pipelines.py."""
