"""Time one MoE feed-forward layer, and other ways to dispatch, relative to a dense layer; print Markdown.

    python bench/moe_layer.py --threads 2 --width 384 --experts 6 --images 8

Forward and backward on the CPU, in float32. One process times all alternatives in turn, round after round, and compares
medians, so that a busy machine slows all of them alike. The reference is a dense FFN on k·T tokens, for T tokens of k
experts each.

Gradients of many experts are large and newly allocated in every step, so the kernel's zeroing of 4 KB pages costs
visible time (32 experts of width 768, k=1: 1.97 instead of 1.65). PyTorch uses huge pages if THP_MEM_ALLOC_ENABLE=1 is
set, as it is here unless the environment says otherwise; they make every alternative faster.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read once, when torch allocates for the first time

import timm
import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

import sfmoe_dg.models.backbones  # registers the models
from sfmoe_dg.models.moe.layers import MoE, ffn_moe, moe_layers, routing_set
from sfmoe_dg.models.moe.routing import Routing, RoutingOptions, route

Step = Callable[[], None]


def ffn(x: Tensor, w: tuple[Tensor, ...]) -> Tensor:
    w1, b1, w2, b2 = w
    return torch.addmm(b2, F.gelu(torch.addmm(b1, x, w1)), w2)


def weights(layer: MoE) -> tuple[Tensor, ...]:
    e = layer.experts
    return e.fc1.weight, e.fc1.bias, e.fc2.weight, e.fc2.bias  # type: ignore[union-attr, return-value]


def masked(layer: MoE, x: Tensor, r: Routing) -> Tensor:
    """Computes every expert on every token, and masks the results."""
    out = torch.zeros_like(x)
    for e, w in enumerate(zip(*(p.unbind() for p in weights(layer)), strict=True)):
        gate = (r.gates_TK * (r.experts_TK == e)).sum(1, keepdim=True)
        out = out + gate * ffn(x, w)
    return out


def index_add(layer: MoE, x: Tensor, r: Routing) -> Tensor:
    """Loops over experts with index_select and index_add."""
    out = torch.zeros_like(x)
    for e, w in enumerate(zip(*(p.unbind() for p in weights(layer)), strict=True)):
        token, choice = (r.experts_TK == e).nonzero(as_tuple=True)
        y = ffn(x.index_select(0, token), w) * r.gates_TK[token, choice].unsqueeze(1)
        out = out.index_add(0, token, y)
    return out


def grouped(layer: MoE, x: Tensor, r: Routing) -> Tensor:
    """Computes our dispatch plan with ``F.grouped_mm``."""
    order = r.experts_TK.flatten().argsort(stable=True)
    ids = r.experts_TK.flatten()[order]
    ends = torch.searchsorted(ids, torch.arange(layer.options.num_experts), right=True, out_int32=True)
    w1, b1, w2, b2 = weights(layer)
    h = F.gelu(F.grouped_mm(x[order // r.experts_TK.shape[1]], w1, offs=ends) + b1[ids])
    y = F.grouped_mm(h, w2, offs=ends) + b2[ids]
    back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    return (y[back].unflatten(0, r.experts_TK.shape) * r.gates_TK.unsqueeze(-1)).sum(1)


def padded(layer: MoE, x: Tensor, r: Routing) -> Tensor:
    """Pads all experts to the fullest one, and uses bmm."""
    num_experts, k = layer.options.num_experts, r.experts_TK.shape[1]
    flat = r.experts_TK.flatten()
    order = flat.argsort(stable=True)
    counts = flat.bincount(minlength=num_experts)
    slot = torch.arange(len(flat)) - (counts.cumsum(0) - counts)[flat[order]]
    place = flat[order] * int(counts.max()) + slot
    w1, b1, w2, b2 = weights(layer)
    buffer = x.new_zeros(num_experts * int(counts.max()), x.shape[1]).index_copy(0, place, x[order // k])
    h = F.gelu(torch.baddbmm(b1[:, None], buffer.view(num_experts, -1, x.shape[1]), w1))
    y = torch.baddbmm(b2[:, None], h, w2).flatten(0, 1)[place]
    back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    return (y[back].unflatten(0, r.experts_TK.shape) * r.gates_TK.unsqueeze(-1)).sum(1)


def einsum(layer: MoE, x: Tensor, r: Routing, tokens: int) -> Tensor:
    """One-hot einsum in groups of one image, with a capacity ratio of 1.25, so that tokens are dropped."""
    num_experts, (_, k) = layer.options.num_experts, r.experts_TK.shape
    slots = max(1, round(1.25 * k * tokens / num_experts))
    hot = F.one_hot(r.experts_TK, num_experts).float().view(-1, tokens * k, num_experts)
    position = (hot.cumsum(1) - 1) * hot
    fits = hot * (position < slots)
    dispatch = fits[..., None] * F.one_hot(position.long().clamp(max=slots - 1), slots)
    dispatch = dispatch.view(len(hot), tokens, k, num_experts, slots)
    combine = (dispatch * r.gates_TK.view(len(hot), tokens, k, 1, 1)).sum(2)
    w1, b1, w2, b2 = weights(layer)
    buffer = torch.einsum("gsd,gsec->egcd", x.view(len(hot), tokens, -1), dispatch.sum(2)).flatten(1, 2)
    y = torch.baddbmm(b2[:, None], F.gelu(torch.baddbmm(b1[:, None], buffer, w1)), w2)
    return torch.einsum("egcd,gsec->gsd", y.unflatten(1, (len(hot), slots)), combine).flatten(0, 1)


def median_times(steps: dict[str, Step], args: argparse.Namespace) -> dict[str, float]:
    clock = time.process_time if args.cpu_time else time.perf_counter
    rounds = args.rounds
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(rounds + 1):
        for name, step in steps.items():
            start = clock()
            step()
            if i:
                times[name].append(clock() - start)
    return {name: statistics.median(t) for name, t in times.items()}


def stepper(run: Callable[[Tensor], Tensor], x: Tensor, modules: list[nn.Module]) -> Step:
    upstream = torch.randn_like(run(x))

    def step() -> None:
        for m in modules:
            m.zero_grad(set_to_none=True)
        run(x).backward(upstream)

    return step


def layer_steps(args: argparse.Namespace, top_k: int) -> dict[str, Step]:
    torch.manual_seed(0)
    num_tokens = args.images * args.tokens
    options = RoutingOptions(args.experts, top_k, renormalize=top_k > 1)
    layer = ffn_moe(args.width, 4 * args.width, options=options)
    x = torch.randn(args.images, args.tokens, args.width, requires_grad=True)
    # Imbalanced as in practice: the most popular expert gets several times what the least popular gets.
    layer.router.weight.data *= torch.linspace(0.3, 1.5, args.experts)[:, None]  # type: ignore[operator, union-attr]
    dense = Mlp(args.width, 4 * args.width)
    x_dense = torch.randn(top_k * num_tokens, args.width, requires_grad=True)

    def other(dispatch: Callable[[MoE, Tensor, Routing], Tensor]) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            x_TD = x.flatten(0, 1)
            return dispatch(layer, x_TD, route(layer.router(x_TD), options, True, args.tokens))

        return run

    steps = {
        "dense FFN on k·T tokens (floor)": stepper(dense, x_dense, [dense]),
        "**sfmoe_dg (sort, in place)**": stepper(lambda x: layer(x)[0], x, [layer]),
    }
    if not args.ours_only:
        steps |= {
            "loop, index_select + index_add": stepper(other(index_add), x, [layer]),
            "F.grouped_mm": stepper(other(grouped), x, [layer]),
            "padded to the fullest, bmm": stepper(other(padded), x, [layer]),
        }
    if not args.ours_only and args.experts <= 8:  # with more experts these take minutes
        steps |= {
            "one-hot einsum per image (drops)": stepper(
                other(lambda m, x, r: einsum(m, x, r, args.tokens)), x, [layer]
            ),
            "every expert on every token, masked": stepper(other(masked), x, [layer]),
        }
    return steps


def bench_layers(args: argparse.Namespace) -> None:
    print(f"\n### One layer: width {args.width}, {args.experts} experts, {args.images}×{args.tokens} tokens\n")
    print("| dispatch | " + " | ".join(f"k={k}" for k in args.top_k) + " |")
    print("|---|" + "---|" * len(args.top_k))
    columns = []
    for top_k in args.top_k:
        times = median_times(layer_steps(args, top_k), args)
        floor = next(iter(times.values()))
        columns.append({name: t / floor for name, t in times.items()})
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(f"{c[name]:.2f}" for c in columns) + " |")


PATTERNS = {
    "last two, k=1 (GMoE)": {"moe_layers": "F*8,[S,F]x2", "top_k": 1},
    "last two, k=2": {"moe_layers": "F*8,[S,F]x2", "top_k": 2},
    "[S,F]x6, k=1": {"moe_layers": "[S,F]x6", "top_k": 1},
    "[S,F]x6, k=2 (SF-MoE)": {"moe_layers": "[S,F]x6", "top_k": 2},
}


def bench_models(args: argparse.Namespace) -> None:
    """Whole training steps of SF-MoE-S/16 relative to the dense model, next to the ratio of multiplications."""
    x = torch.randn(args.images, 3, 224, 224)
    models = {"dense": timm.create_model("sf_moe_small_patch16_224", moe_layers="F*12", num_classes=7)}
    models |= {n: timm.create_model("sf_moe_small_patch16_224", num_classes=7, **kw) for n, kw in PATTERNS.items()}
    steps: dict[str, Step] = {}
    for name, model in models.items():

        def step(model: nn.Module = model) -> None:
            model.zero_grad(set_to_none=True)
            y, losses = model.forward_with_losses(x)  # type: ignore[operator]
            (y.square().mean() + sum(losses.values())).backward()

        steps[name] = step
    times = median_times(steps, args)
    print(f"\n### Whole step: SF-MoE-S/16, {args.images} images\n")
    print("| blocks | step over dense | multiplications over dense | quotient |\n|---|---|---|---|")
    for name, kw in PATTERNS.items():
        sparse = len(models[name].moe_layers)  # type: ignore[arg-type]
        macs = macs_ratio(sparse, int(kw["top_k"]))
        ratio = times[name] / times["dense"]
        print(f"| {name} | {ratio:.3f} | {macs:.3f} | {ratio / macs:.3f} |")


def bench_conditional(args: argparse.Namespace) -> None:
    """Whole training steps of conditional MoEs with merged experts, relative to the dense model."""
    x = torch.randn(args.images, 3, 224, 224)
    domains = torch.arange(args.images) * 3 // args.images
    dense = timm.create_model("cond_moe_small_patch16_224", moe_layers=(), num_classes=7)
    task = timm.create_model("cond_moe_small_patch16_224", routing_level="task", num_domains=3, num_classes=7)
    modality = timm.create_model("cond_moe_small_patch16_224", routing_level="modality", num_classes=7)
    passes = {
        "dense": (dense, {}),
        "one route for all images (mean of three domains)": (task, {}),
        "one route per domain, three domains": (task, {"domains": domains}),
        "two routes in every image (CLS, patches)": (modality, {}),
    }
    steps: dict[str, Step] = {}
    for name, (model, known) in passes.items():

        def step(model: nn.Module = model, known: dict[str, Tensor] = known) -> None:
            model.zero_grad(set_to_none=True)
            y, losses = model.forward_with_losses(x, **known)  # type: ignore[operator]
            (y.square().mean() + sum(losses.values())).backward()

        steps[name] = step
    times = median_times(steps, args)
    print(f"\n### Whole step: CondMoE-S/16 with merged experts, {args.images} images\n")
    print("| routes | step over dense |\n|---|---|")
    for name in list(steps)[1:]:
        print(f"| {name} | {times[name] / times['dense']:.3f} |")


def macs_ratio(
    sparse: int, top_k: int, width: int = 384, tokens: int = 197, depth: int = 12, experts: int = 6
) -> float:
    """Multiplications per image of the sparse model relative to the dense one, computed from shapes."""
    block = tokens * 12 * width**2 + 2 * tokens**2 * width
    dense = depth * block + 196 * 768 * width
    extra = sparse * tokens * ((top_k - 1) * 8 * width**2 + width * experts)
    return (dense + extra) / dense


def bench_load(args: argparse.Namespace) -> None:
    """How evenly an untrained SF-MoE-S/16 spreads the first choices of tokens over its experts."""
    model = timm.create_model("sf_moe_small_patch16_224", num_classes=7).eval()
    print("\n### Share of tokens per expert, fresh router, noise images\n\n| layer | shares in % |\n|---|---|")
    for name, layer in moe_layers(model):
        layer.register_forward_hook(
            lambda m, i, out, name=name: print(
                f"| {name} | "
                + " ".join(f"{100 * (out[1].experts_TK == e).float().mean():.0f}" for e in range(m.options.num_experts))
                + " |"
            )
        )
    with torch.no_grad(), routing_set(model, k=1):
        model(torch.randn(4, 3, 224, 224))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--experts", type=int, default=6)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=197)
    parser.add_argument("--top-k", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--cpu-time", action="store_true", help="CPU time instead of wall time; use with --threads 1")
    parser.add_argument("--ours-only", action="store_true", help="leave the alternatives out")
    parser.add_argument("--models", action="store_true", help="whole training steps of SF-MoE-S/16 too")
    parser.add_argument("--load", action="store_true", help="the load table too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {args.threads} threads, float32, medians of {args.rounds} rounds", end="")
    print(f", huge pages {'on' if os.environ['THP_MEM_ALLOC_ENABLE'] == '1' else 'off'}")
    bench_layers(args)
    if args.models:
        bench_models(args)
        bench_conditional(args)
    if args.load:
        bench_load(args)


if __name__ == "__main__":
    assert sfmoe_dg.models
    main()
