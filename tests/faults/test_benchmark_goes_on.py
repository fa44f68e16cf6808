"""XDiT Benchmark: a strategy whose ranks fail is a line with its reason; the others are measured."""

import re

from support.prompts import Graph


def test_a_strategy_that_ends_the_ranks_is_listed(faults, console):
    graph = Graph()
    config = graph.parallel_config("cpu:2")
    model = graph.add("XDiTLoader", unet_name=faults.name, weight_dtype="default", parallel_config=config)
    fault = {"kind": "raises", "place": "inside the model call", "rank": 1, "call": 2, "times": 1}
    model = graph.add("FaultInRank", model=model, counter=str(faults.counter), **fault)
    latent = graph.add("EmptySD3LatentImage", width=72, height=56, batch_size=1)
    positive = graph.flux_conditioning(1)
    inputs = {"model": model, "positive": positive, "negative": positive, "latent_image": latent}
    settings = {"steps": 3, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
    node = graph.add("XDiTBenchmark", **inputs, **settings)
    console.announce("xDiT Benchmark: ulysses 2")
    (report,) = faults.client.run(graph.prompt).outputs[node.id]["text"]
    measured, refused = report.split("Cannot be had:")
    # auto's own choice comes first, so the fault strikes there
    assert re.search(r"^ulysses 2: .*while the other ranks went on", refused, re.MULTILINE), report
    assert re.search(r"^cfg 2: cfg degree 2", refused, re.MULTILINE), report
    assert re.search(r"^(ring 2|one device) +\d", measured, re.MULTILINE), report
    faults.assert_right(seed=35)
