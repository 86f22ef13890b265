"""Suite ``engine``: gradients beside PyTorch's, per-example statistics beside a plain gradient, BackPACK and Opacus.

Everything is float32, B = 128. Both sides compute into fresh memory and are checked against one another before anything
is timed. ResNet32 has batch norm in training mode; PyTorch runs convolutions in both of its memory layouts, and the
faster one counts.
"""

from collections.abc import Iterator

from gcref.validation.benchmarks.alternating import Run
from gcref.validation.benchmarks.rows import Row
from gcref.validation.benchmarks.workloads import (
    Model,
    Plan,
    gradient_work,
    mlp,
    moments,
    moments_work,
    norms,
    plain,
    resnet8,
    resnet32,
    trace_work,
)

SUITE = "engine"


def rows(plan: Plan) -> Iterator[Row]:
    """Measure; one row after the other."""
    if "torch" in plan.peers:
        yield _mlp_beside_torch(plan)
        yield _resnet_beside_torch(plan, "ResNet8", resnet8(), 1, False)
        yield _resnet_beside_torch(plan, "ResNet32, batch norm", resnet32(), 5, True)
    for name, m, target in (("MLP", mlp(), 1.02), ("ResNet8", resnet8(), 1.5)):
        what = f"per-example squared norms, {name}"
        blocks, runs = (24, 12) if name == "MLP" else (8, 5)
        pair = plan.compare(norms(m), plain(m), blocks, runs)
        yield Row(SUITE, what, "a plain gradient", pair, target, trace_work(m))
        for peer, theirs in _peers_of_norms(plan, m):
            pair = plan.compare(norms(m), theirs, blocks, runs)
            yield Row(SUITE, what, peer, pair, None, trace_work(m), note="the peer's pass has the gradient, too")
    m = mlp()
    what = "mean and variance by coordinate, MLP"
    pair = plan.compare(moments(m), plain(m), 24, 12)
    yield Row(SUITE, what, "a plain gradient", pair, 1.3, moments_work(m))
    if "backpack" in plan.peers:
        pair = plan.compare(moments(m), _backpack_moments(m), 24, 12)
        yield Row(SUITE, what, "backpack", pair, None, moments_work(m), note="gcref sums in float64")


def _mlp_beside_torch(plan: Plan) -> Row:
    """Time a gradient of the MLP."""
    from gcref.validation.benchmarks import torch_peer

    m = mlp()
    theirs = _torch_gradient(m, torch_peer.mlp(m.net))
    return Row(SUITE, "gradient, MLP", "torch", plan.compare(plain(m), theirs, 24, 12), 1.0, gradient_work(m))


def _torch_gradient(m: Model, network: object, layout: str = "channels first") -> Run:
    """Return PyTorch's run, once both sides agree."""
    import torch

    from gcref.validation.benchmarks import torch_peer

    assert isinstance(network, torch.nn.Module)
    theirs = torch_peer.gradient(network, torch_peer.tensor(m.x, layout), torch.from_numpy(m.y))
    torch_peer.check(m.net, m.x, m.y, theirs, network)
    return theirs


def _resnet_beside_torch(plan: Plan, name: str, m: Model, n_blocks: int, norm: bool) -> Row:
    """Time a gradient of a ResNet, beside PyTorch's faster layout."""
    from gcref.validation.benchmarks import torch_peer

    found = {}
    for layout, memory_format in torch_peer.LAYOUTS.items():
        network = torch_peer.resnet(m.net, n_blocks, norm).to(memory_format=memory_format)
        found[layout] = plan.compare(plain(m), _torch_gradient(m, network, layout), 10, 5)
    layout = min(found, key=lambda key: found[key].theirs.median)
    work = gradient_work(m)
    return Row(SUITE, f"gradient, {name}", "torch", found[layout], 0.9, work, note=f"torch faster with {layout}")


def _peers_of_norms(plan: Plan, m: Model) -> Iterator[tuple[str, Run]]:
    """Yield the runs of the peers that find per-example norms, once they agree with ours."""
    if not plan.peers & {"backpack", "opacus"}:
        return
    import torch

    from gcref.validation.benchmarks import torch_peer

    x, y = torch_peer.tensor(m.x), torch.from_numpy(m.y)
    for peer in ("backpack", "opacus"):
        if peer in plan.peers:
            network = torch_peer.mlp(m.net) if m.x.ndim == 2 else torch_peer.resnet(m.net, 1, False)
            if peer == "backpack":
                from gcref.validation.benchmarks.backpack_peer import sq_norms
            else:
                from gcref.validation.benchmarks.opacus_peer import sq_norms
            theirs = sq_norms(network, x, y)
            torch_peer.agree(f"{peer}'s squared norms", norms(m)(), theirs(), 1e-4)
            yield peer, theirs


def _backpack_moments(m: Model) -> Run:
    """Return BackPACK's run, once it agrees with ours."""
    import torch

    from gcref.validation.benchmarks import torch_peer
    from gcref.validation.benchmarks.backpack_peer import second_moment

    theirs = second_moment(torch_peer.mlp(m.net), torch_peer.tensor(m.x), torch.from_numpy(m.y))
    torch_peer.agree("BackPACK's second moment", moments(m)(), theirs(), 1e-4)
    return theirs
