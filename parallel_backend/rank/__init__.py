"""The side that runs in each rank: bootstrap, command loop, model store, sampling."""
