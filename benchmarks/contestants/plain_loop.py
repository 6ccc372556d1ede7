"""The measure of all contestants: federated averaging as a plain loop around one model, with
nothing that the work does not need."""

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

from benchmarks.common.work import Work, floats, new_model, probe, shards
from fedrobust.types import Samples


def run(work: Work, rule: str, mark: Callable[[int], None]) -> dict[str, float]:
    """Train and evaluate; `mark` is called after every round, and after round 0, the evaluation of
    the untrained model."""
    return average(work, *shards(work), mark)


def average(
    work: Work, clients: Sequence[Samples], validation: Samples, mark: Callable[[int], None]
) -> dict[str, float]:
    """The loop with these clients and these validation images."""
    model = new_model(work)
    tensors, start = floats(model), probe(model)
    current = [tensor.clone() for tensor in tensors]
    trained = judged = 0

    def judge() -> float:
        model.eval()
        with torch.no_grad():
            parts = zip(
                torch.split(validation.images, 128),
                torch.split(validation.labels, 128),
                strict=True,
            )
            right = torch.cat(
                [model(images / 255.0).argmax(1) == labels for images, labels in parts]
            )
        model.train()
        return float(right.float().mean())

    for number in range(work.rounds + 1):
        if number > 0:
            mean = [torch.zeros_like(tensor) for tensor in tensors]
            for shard in clients:
                torch._foreach_copy_(tensors, current)
                optimizer = torch.optim.SGD(model.parameters(), lr=work.rate)
                for index in torch.split(
                    torch.randperm(len(shard), device=work.device), work.batch
                ):
                    with torch.autocast(work.device, torch.bfloat16, enabled=work.device == "cuda"):
                        loss = functional.cross_entropy(
                            model(shard.images[index] / 255.0), shard.labels[index]
                        )
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    trained += len(index)
                torch._foreach_add_(mean, tensors, alpha=1 / len(clients))
            current = mean
            torch._foreach_copy_(tensors, current)
        accuracy = judge()
        judged += len(validation)
        mark(number)
    return {
        "trained": trained,
        "judged": judged,
        "moved": float((probe(model) - start).norm()),
        "accuracy": accuracy,
    }
