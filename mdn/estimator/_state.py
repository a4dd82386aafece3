"""The state of a model, put together from those of its parts, and the reading of older files.

A state is a configuration, in plain numbers and strings, and tensors by name.
"""

from __future__ import annotations

import re
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any, Self, get_args, get_origin, get_type_hints

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Floats", "Saved", "State", "from_format_2", "join", "read"]

Floats = NDArray[np.floating[Any]]
State = tuple[dict[str, Any], dict[str, Tensor]]

# Names in a file of format 2, of tensors as regular expressions, and what they have become.
_RENAMED_OPTIONS = {"waves": "n_frequencies", "unseen": "masked"}  # of the networks
_RENAMED = (
    (r"^x_(shift|scale)$", r"inputs.\1"),
    (r"^turn$", "inputs.whitening"),
    (r"^told_(shift|scale)$", r"base_models.\1"),
    (r"^processes\.(\d+)\.become\.", r"processes.\1.scores."),
    (r"^processes\.", "base_models.processes."),
    (r"^trees\.", "base_models.forests."),
    (r"^networks\.(\d+)\.wave_", r"networks.\1.embedding_"),
    (r"^networks\.(\d+)\.seen$", r"networks.\1.input_mask"),
    (r"^networks\.(\d+)\.", r"groups.\1.network."),
)


class Saved:
    """Base of a dataclass that is saved field by field.

    A field is a tensor, an array, an object with a state, a list of these, another dataclass, or a
    plain value.  One with a default may be absent from a file, which is then older than the field.
    """

    def state(self) -> State:
        """Returns the configuration and the tensors."""
        return join(**{name: getattr(self, name) for name in get_type_hints(type(self))})

    @classmethod
    def from_state(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """Returns the object that :meth:`state` described; what is new since has its default.

        Raises:
            ValueError: there is a name that is no field.
        """
        kinds = get_type_hints(cls)
        known = {key.split(".")[0] for key in (*config, *tensors)}
        unknown = known - kinds.keys()
        if unknown:
            raise ValueError(f"unknown names: {', '.join(unknown)}")
        required = {
            f.name
            for f in fields(cls)  # type: ignore[arg-type]
            if f.default is MISSING and not f.metadata.get("later")  # than the first files
        }
        kinds = {name: kind for name, kind in kinds.items() if name in known | required}
        return cls(**{name: read(kind, name, config, tensors) for name, kind in kinds.items()})


def join(**parts: Any) -> State:
    """Returns one state of several parts, which are as fields of :class:`Saved`.

    A tensor of the part ``name`` is called ``name.tensor``, or in a list ``name.0.tensor``.
    """
    config: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name, part in parts.items():
        own: dict[str, Tensor] = {}
        if isinstance(part, (Tensor, np.ndarray)):
            tensors[name] = torch.as_tensor(part)
        elif hasattr(part, "state"):
            config[name], own = part.state()
        elif isinstance(part, list) and not any(isinstance(one, int) for one in part):
            config[name], own = join(**{str(i): one for i, one in enumerate(part)})
        else:
            config[name] = asdict(part) if is_dataclass(part) else part  # type: ignore[arg-type]
        tensors |= {f"{name}.{key}": a for key, a in own.items()}
    return config, tensors


def read(kind: Any, name: str, config: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    """Returns the part, of a type, that was joined under a name."""
    prefix = f"{name}."
    own = {key.removeprefix(prefix): a for key, a in tensors.items() if key.startswith(prefix)}
    if type(None) in get_args(kind):
        if config.get(name) is None and not own:
            return None
        kind = next(one for one in get_args(kind) if one is not type(None))
    if kind is Tensor:
        return tensors[name]
    if get_origin(kind) is np.ndarray:
        return tensors[name].numpy()
    if kind == list[Tensor]:
        return [own[str(i)] for i in range(len(own))]
    if get_origin(kind) is list and hasattr(get_args(kind)[0], "from_state"):
        return [read(get_args(kind)[0], i, config[name], own) for i in config[name]]
    if hasattr(kind, "from_state"):
        return kind.from_state(config[name], own)
    return kind(**config[name]) if hasattr(kind, "__dataclass_fields__") else config[name]


def from_format_2(config: dict[str, Any], tensors: dict[str, Tensor]) -> State:
    """Returns the state of an estimator as it is written now, from that of a file of format 2."""
    networks = [
        {_RENAMED_OPTIONS.get(key, key): value for key, value in network.items()}
        for network in config["networks"]
    ]
    sizes = config.get("parts", [[network["n_members"]] for network in networks])
    groups = {
        str(i): {"network": network, "uses_trees": uses, "subgroup_sizes": own, "history": history}
        for i, (network, uses, own, history) in enumerate(
            zip(networks, config["uses_trees"], sizes, config["histories"], strict=True)
        )
    }
    target = dict(config["target"])
    shift, scale = (torch.tensor(target.pop(k), dtype=torch.float64) for k in ("shift", "scale"))
    new = {"target.shift": shift, "target.scale": scale}
    for name, a in tensors.items():
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        new[name] = a
    forests = {}
    for i in range(config["n_forests"]):
        base, boosted = new.pop(f"base_models.forests.{i}.about").tolist()
        forests[str(i)] = {"base": base, "boosted": bool(boosted)}
    processes: dict[str, Any] = {str(i): {} for i in range(config["n_processes"])}
    for key in processes:
        name = f"base_models.processes.{key}.theta"
        theta, columns = new[name], new[f"base_models.processes.{key}.x"].shape[1]
        if len(theta) == 2 * columns + 4:  # from before there were pairs of columns
            off = theta.new_tensor([-torch.inf])
            new[name] = torch.cat([theta[:-2], off, theta[-2:]])
    model = {
        "inputs": {},
        "base_models": {"processes": processes, "forests": forests},
        "groups": groups,
        "stack": {"background_weight": config["broad"], "min_scale": config["floor"]},
        "target": target,
    }
    about = {name: config[name] for name in ("params", "feature_names", "seed", "columns")}
    return {**about, "model": model}, {f"model.{name}": a for name, a in new.items()}
