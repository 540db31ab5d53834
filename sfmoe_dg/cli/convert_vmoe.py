"""Convert a released V-MoE checkpoint to a safetensors file."""

from __future__ import annotations

import argparse
import json

EXAMPLE = """example:
  gsutil cp 'gs://vmoe_checkpoints/vmoe_s32_last2_ilsvrc2012_randaug_light1.*' .
  sfmoe-dg convert-vmoe vmoe_s32_last2_ilsvrc2012_randaug_light1 v_moe_s32.safetensors
  sfmoe-dg train --dataset PACS --algorithm VMoE --hparams '{"pretrained": "v_moe_s32.safetensors"}'

This needs the package msgpack: pip install 'sfmoe-dg[vmoe]'.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prefix", metavar="PREFIX", help="the checkpoint's path without .index and .data-…")
    parser.add_argument("out", metavar="OUT.safetensors", help="the file to write")


def run(args: argparse.Namespace) -> int:
    from sfmoe_dg.compat.vmoe.convert import convert, registered_name

    config = convert(args.prefix, args.out)
    sparse = ", ".join(str(i) for i in config["moe_layers"]) or "no block"
    print(
        f"{args.out}: patch {config['patch_size']}, {config['img_size']} px, {config['depth']} blocks of width "
        f"{config['embed_dim']}, {config['num_experts']} experts in {sparse}, {config['num_classes']} classes"
    )
    name = registered_name(config)
    if name:
        use = {"backbone": name, "pretrained": args.out}
        if config["moe_layers"]:
            use |= {"moe_layers": config["moe_layers"], "num_experts": config["num_experts"]}
        print(f"to use it: --hparams '{json.dumps(use)}'")
    return 0
