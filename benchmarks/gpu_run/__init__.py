"""What the benchmarks through ComfyUI's server share: random model files, one server at a time, engines, reports."""
