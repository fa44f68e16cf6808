"""Flux with two conditions of different length, by ComfyUI's own sampler node."""

from .prompts import Graph


def guided_flux(
    client, models, config=None, cfg=1.0, prepare=lambda graph, model: model, controlled=None, file=None, **inputs
):
    """The latent. `config`: of Parallel Config, None for stock ComfyUI; `prepare(graph, model)`: what comes between
    loader and sampler; `controlled`: a hint for a ControlNet on the positive side; `file`: of the model; `batch`, and
    inputs of KSampler.
    """
    graph, file = Graph(), file or models.flux()
    if config is None:
        model = graph.add("UNETLoader", unet_name=file, weight_dtype="default")
    else:
        parallel = graph.parallel_config(**config)
        model = graph.add("XDiTLoader", unet_name=file, weight_dtype="default", parallel_config=parallel)
    model = prepare(graph, model)
    positive, negative = graph.flux_conditioning(1, 33), graph.flux_conditioning(2, 17)
    if controlled is not None:
        positive = graph.add(
            "ControlNetApplyAdvanced",
            positive=positive,
            negative=negative,
            control_net=graph.add("ControlNetLoader", control_net_name=models.flux_controlnet()),
            image=graph.add("LoadImage", image=controlled),
            strength=0.7,
            start_percent=0.0,
            end_percent=1.0,
        )
    latent = graph.add("EmptySD3LatentImage", width=128, height=96, batch_size=inputs.pop("batch", 1))
    saved = graph.save(graph.sample("KSampler", model, positive, latent, negative=negative, cfg=cfg, **inputs))
    return client.latent(client.run(graph.prompt), saved.id)
