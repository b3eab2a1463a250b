"""Makes the LoRA adapters beside it, on the golden models: what PEFT saves, the logits that PEFT computes with it, and
the GGUF file that llama.cpp's own converter makes of it.

Needs torch, transformers, peft, and a llama.cpp source tree.
Run in this folder: python make_adapters.py LLAMA_CPP
"""

import json
import os
import subprocess
import sys

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

GOLDENS = os.path.join("..", "goldens")


def adapter(name, base, seed, **config):
    torch.manual_seed(seed)
    folder = os.path.join(GOLDENS, base)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    model = get_peft_model(plain, LoraConfig(**config))
    for parameter_name, parameter in model.named_parameters():
        if "lora_" in parameter_name:
            # As large as the weights themselves: whatever is left out shows.
            torch.nn.init.normal_(parameter, std=0.15)
    model.eval()
    model.save_pretrained(name)
    os.remove(os.path.join(name, "README.md"))
    path = os.path.join(name, "adapter_config.json")
    with open(path) as file:
        saved = json.load(file)
    saved["base_model_name_or_path"] = base
    with open(path, "w") as file:
        json.dump(saved, file, indent=1, sort_keys=True)
    tokens = load_file(os.path.join(folder, "golden.safetensors"))["input_ids"]
    with torch.no_grad():
        logits = model(tokens).logits
        noise = (model.double()(tokens).logits - logits.double()).abs().max().item()
        base_logits = load_file(os.path.join(folder, "golden.safetensors"))["logits"]
    print(f"{name}: moves logits by up to {(logits - base_logits).abs().max():.3f} of {base_logits.abs().max():.3f}")
    metadata = {"fp64_noise_floor_logits": str(noise)}
    save_file({"input_ids": tokens, "logits": logits.contiguous()}, os.path.join(name, "golden.safetensors"), metadata)


def gguf(name, base, outtype):
    script = os.path.join(sys.argv[1], "convert_lora_to_gguf.py")
    out = os.path.join(name, f"adapter-{outtype}.gguf")
    subprocess.run([sys.executable, script, name, "--base", os.path.join(GOLDENS, base), "--outfile", out,
                    "--outtype", outtype], check=True)


EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
adapter("llama3-plain", "llama3-gqa", 1, r=4, lora_alpha=8, target_modules=EVERY)
gguf("llama3-plain", "llama3-gqa", "f32")
adapter("llama3-patterns", "llama3-gqa", 2, r=4, lora_alpha=6, use_rslora=True,
        target_modules=["q_proj", "v_proj", "down_proj", "lm_head"],
        rank_pattern={"v_proj": 6, "model.layers.1.mlp.down_proj": 2},
        alpha_pattern={"^model.layers.2.self_attn.q_proj": 3, "lm_head": 5})
adapter("llama4-scout", "llama4-scout", 3, r=4, lora_alpha=8,
        target_modules=r".*(self_attn\.[qkvo]_proj|shared_expert\.(gate|up|down)_proj)")
