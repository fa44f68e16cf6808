"""What this pack uses of ComfyUI beyond its public API (comfy_api.latest), as data: one entry, one reason.

A name that moved or takes other arguments is told at start and by the doctor (self_check.py), before a prompt meets it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Used:
    """`name`: module and attribute, with dots. `takes`: parameters that this pack gives it, or takes in its place.
    `why`: what for. `without`: what does not work where it is missing.
    """

    name: str
    why: str
    without: str
    takes: tuple[str, ...] = ()


SAMPLING = "sampling in the ranks"
LOADING = "loading a MODEL without its weights"
MEMORY = "sharing the devices' memory with ComfyUI's own models"
CANCEL = "Cancel"
NODES_OF_PACKS = "nodes that hold or replace parts of ComfyUI"
CFG = "dividing conditions (cfg) and images (batch)"
START = "starting ranks"

USED = (
    # Models and patchers
    Used("comfy.model_base.BaseModel", "tells a MODEL's model from other modules", LOADING, ("model_config",)),
    Used(
        "comfy.model_patcher.ModelPatcher",
        "base of the weightless MODEL and of the ranks' patchers",
        SAMPLING,
        ("model", "load_device", "offload_device"),
    ),
    Used("comfy.sd.load_diffusion_model", "the recipe of xDiT Loader's MODEL", LOADING, ("unet_path", "model_options")),
    Used(
        "comfy.sd.load_checkpoint_guess_config",
        "the recipe of xDiT Checkpoint Loader's MODEL",
        LOADING,
        ("ckpt_path", "output_vae", "output_clip", "embedding_directory", "output_model", "model_options"),
    ),
    Used(
        "comfy.sd.load_diffusion_model_state_dict",
        "models in diffusers layout",
        "xDiT Diffusers Loader",
        ("sd", "model_options"),
    ),
    Used(
        "comfy.utils.load_torch_file", "files are mapped, not copied, while a rank loads", LOADING, ("ckpt", "device")
    ),
    Used("comfy.utils.get_attr", "parts of a model by their path", NODES_OF_PACKS, ("obj", "attr")),
    Used("comfy.quant_ops.QuantizedTensor", "scaled fp8 weights for the compiler", "compiling scaled fp8 weights"),
    # The run
    Used("comfy.patcher_extension.WrappersMP", "where a run is handed over, and where calls are divided", SAMPLING),
    Used(
        "comfy.patcher_extension.WrapperExecutor.new_class_executor",
        "the chain of wrappers, in the ranks",
        SAMPLING,
        ("original", "class_obj", "wrappers"),
    ),
    Used(
        "comfy.patcher_extension.get_all_wrappers",
        "the wrappers of a guider's options",
        SAMPLING,
        ("wrapper_type", "transformer_options", "is_model_options"),
    ),
    Used("comfy.samplers.KSAMPLER", "samplers that need the negative prompt are told by it", CFG),
    Used("comfy.samplers.KSampler.SAMPLERS", "the list of samplers", "xDiT Sampler"),
    Used("comfy.samplers.KSampler.SCHEDULERS", "the list of schedulers", "xDiT Sampler"),
    Used(
        "comfy.samplers._calc_cond_batch_outer",
        "evaluating the conditions that fall to one group of ranks",
        CFG,
        ("model", "conds", "x_in", "timestep", "model_options"),
    ),
    Used("comfy.conds.CONDConstant", "conditions that cannot be counted are known by their class", CFG),
    Used("comfy.controlnet.ControlBase", "ControlNets of packs are known by their base", CFG),
    Used("comfy.hooks.EnumHookType.TransformerOptions", "hooks that bring wrappers", CFG),
    Used(
        "comfy.utils.repeat_to_batch_size",
        "conditions for every image of a batch, as ComfyUI repeats them",
        CFG,
        ("tensor", "batch_size"),
    ),
    Used("nodes.common_ksampler", "what KSampler runs", "xDiT Sampler", ("model", "seed", "steps", "cfg", "denoise")),
    Used(
        "comfy_extras.nodes_custom_sampler.SamplerCustomAdvanced.execute",
        "what SamplerCustomAdvanced runs",
        "xDiT Sampler (Advanced)",
        ("noise", "guider", "sampler", "sigmas", "latent_image"),
    ),
    Used("comfy.utils.ProgressBar", "progress on the node", "progress while weights are read", ("total",)),
    Used("latent_preview", "ComfyUI's own preview callback is known by its module", "preview without waiting for it"),
    Used(
        "comfy_execution.utils.get_executing_context", "which prompt is running", "one set of devices for each prompt"
    ),
    # Attention
    Used(
        "comfy.ldm.modules.attention.optimized_attention",
        "whether a node chooses a kernel or has its own attention",
        SAMPLING,
        ("heads", "mask", "attn_precision", "skip_reshape", "skip_output_reshape"),
    ),
    Used(
        "comfy.ldm.modules.attention.attention_pytorch",
        "the attention that the ranks' kernels stand for",
        SAMPLING,
        ("q", "k", "v", "heads", "mask", "attn_precision", "skip_reshape", "skip_output_reshape"),
    ),
    Used(
        "comfy.ops.scaled_dot_product_attention",
        "replaced in the ranks: the fastest exact kernel is chosen below it",
        "the choice of an attention kernel",
        ("q", "k", "v"),
    ),
    Used("comfy.ops.disable_weight_init", "the layers of a model that describe_model makes", "describe_model"),
    Used("comfy_api.torch_helpers.torch_compile.COMPILE_KEY", "TorchCompileModel is known by it", NODES_OF_PACKS),
    # Memory
    Used("comfy.model_management.current_loaded_models", "what the ranks hold is shown there", MEMORY),
    Used("comfy.model_management.LoadedModel", "an entry of that list", MEMORY, ("model",)),
    Used("comfy.model_management.free_memory", "other models make room", MEMORY, ("memory_required", "device")),
    Used("comfy.model_management.get_free_memory", "what is free on a device", MEMORY, ("dev",)),
    Used("comfy.model_management.get_total_memory", "how large a device is", MEMORY, ("dev",)),
    Used("comfy.model_management.minimum_inference_memory", "what ComfyUI keeps free to run", MEMORY),
    Used("comfy.model_management.load_models_gpu", "loading in a rank", SAMPLING, ("models",)),
    Used(
        "comfy.model_management.unload_model_and_clones",
        "a stock MODEL leaves ComfyUI's GPU",
        MEMORY,
        ("model", "unload_additional_models"),
    ),
    Used("comfy.model_management.cleanup_models_gc", "models that nobody holds", MEMORY),
    Used("comfy.model_management.soft_empty_cache", "torch's caches given back", MEMORY),
    Used("comfy.model_management.is_oom", "out of memory, told from other errors", MEMORY, ("e",)),
    Used("comfy.model_management.get_torch_device", "ComfyUI's device", SAMPLING),
    Used("comfy.model_management.cpu_mode", "whether ComfyUI runs without a GPU", START),
    Used(
        "comfy.sampler_helpers.estimate_memory",
        "what a run needs beside its weights",
        MEMORY,
        ("model", "noise_shape", "conds"),
    ),
    Used("comfy.sampler_helpers.get_additional_models", "ControlNets in conditions", MEMORY, ("conds", "dtype")),
    Used(
        "comfy.sampler_helpers.get_additional_models_from_model_options",
        "models in options",
        MEMORY,
        ("model_options",),
    ),
    # Cancel
    Used("comfy.model_management.InterruptProcessingException", "how a cancelled prompt ends", CANCEL),
    Used("comfy.model_management.interrupt_current_processing", "taking Cancel's flag back", CANCEL, ("value",)),
    Used("comfy.model_management.processing_interrupted", "whether Cancel was pressed", CANCEL),
    Used("comfy.model_management.throw_exception_if_processing_interrupted", "whether Cancel was pressed", CANCEL),
    # Processes, folders, nodes
    Used("comfy.options.enable_args_parsing", "a rank reads ComfyUI's flags", START),
    Used("comfy.cli_args.args.cpu", "CPU ranks look for no GPU", START),
    Used("folder_paths.folder_names_and_paths", "ranks find the files that ComfyUI finds", START),
    Used("folder_paths.get_filename_list", "the loaders' lists", "the loaders", ("folder_name",)),
    Used(
        "folder_paths.get_folder_paths", "folders of diffusers models and embeddings", "the loaders", ("folder_name",)
    ),
    Used("folder_paths.get_full_path_or_raise", "a listed file", "the loaders", ("folder_name", "filename")),
    Used("folder_paths.get_user_directory", "where logs of the ranks lie", "logs of the ranks"),
    Used("folder_paths.set_user_directory", "the doctor's logs lie elsewhere", "the doctor's command", ("user_dir",)),
    Used("comfy_api.internal._ComfyNodeInternal", "classes of V3 nodes, made anew for each run", NODES_OF_PACKS),
    Used("comfy_api.internal.lock_class", "the same, in a rank", NODES_OF_PACKS, ("cls",)),
    Used("server.PromptServer", "routes of the sidebar tab and of metrics", "the sidebar tab"),
    Used("comfyui_version.__version__", "which ComfyUI this is", "the line about its version"),
)

NEWEST_TESTED = (0, 30)
OLDEST = (0, 30)


@dataclass(frozen=True)
class Replaced:
    """A name of ComfyUI that this pack puts something else in the place of. `where`: in which process; `until`."""

    name: str
    where: str
    until: str
    why: str


REPLACED = (
    Replaced(
        "comfy.utils.load_torch_file and two more names that loaders call",
        "ComfyUI and ranks, for the thread that loads",
        "the loader returns",
        "files are mapped or looked at, not copied (loading/meta_loading.py)",
    ),
    Replaced(
        "comfy.ops.scaled_dot_product_attention",
        "ranks",
        "the request ends",
        "the fastest exact kernel (rank/attention/local_attention.py)",
    ),
    Replaced(
        "attention functions of architectures that call them without transformer_options",
        "ranks",
        "the rank ends; without a call in progress they are ComfyUI's",
        "the exchange between ranks (sharding/engine/attention_override.py)",
    ),
    Replaced(
        "the model's `forward` or `_forward`",
        "ComfyUI, in remote forward; ranks, in PipeFusion and CUDA graphs",
        "the run ends",
        "the ranks compute the call; stages run their own blocks",
    ),
    Replaced(
        "what node packs replaced in ComfyUI",
        "ranks",
        "the request ends",
        "ranks compute what ComfyUI would (rank/run/replaced_for_request.py)",
    ),
    Replaced("server.PromptServer.instance", "ranks", "the rank ends", "packs touch it when they are imported"),
    Replaced("folder_paths.folder_names_and_paths", "ranks", "the rank ends", "the folders that ComfyUI's process has"),
)
