"""Make the golden vectors: what torch.nn.GRUCell gives in float64, for machines without torch.

Run ``python tests/golden/make.py`` where torch is installed; the file it writes is committed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

CASES = {
    # name: (rows or None, input size, hidden size, bias)
    "batched": (3, 5, 4, True),
    "unbatched": (None, 3, 2, True),
    "nobias": (2, 4, 3, False),
    "wide": (2, 7, 17, True),
}


def main() -> None:
    arrays: dict[str, np.ndarray] = {}
    for seed, (case, (rows, input_size, hidden_size, bias)) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        cell = torch.nn.GRUCell(input_size, hidden_size, bias=bias, dtype=torch.float64)
        shape = () if rows is None else (rows,)
        x = torch.randn(*shape, input_size, dtype=torch.float64, requires_grad=True)
        h = torch.randn(*shape, hidden_size, dtype=torch.float64, requires_grad=True)
        delta = torch.randn(*shape, hidden_size, dtype=torch.float64)
        h_t = cell(x, h)
        h_t.backward(delta)
        values = {"x": x, "h": h, "delta": delta, "h_t": h_t, "dx": x.grad, "dh": h.grad}
        for name, parameter in cell.named_parameters():
            values |= {name: parameter, f"d{name}": parameter.grad}
        arrays |= {f"{case}.{name}": value.detach().numpy() for name, value in values.items()}
    path = Path(__file__).parent / "gru_cell.npz"
    np.savez_compressed(path, **arrays)
    print(f"{path.name}: {len(arrays)} arrays, torch {torch.__version__}")


if __name__ == "__main__":
    main()
