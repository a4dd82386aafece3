"""The mixture density network MDN: standardisation, hidden layers and a head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..arguments import check_integer
from ..distribution import GaussianMixture, Mixture
from ..functional._checks import check_event
from ..functional._numerics import is_traced
from ..standardization import ROUNDING, column_units, compress, limits, standardization
from ..warnings import DataWarning, warn
from ._families import MIN_SCALE
from ._heads import MDNHead, check_rows, exact, refuse_trace

__all__ = ["MDN"]


class MDN(nn.Module):
    """Mixture density network: ``forward(x) -> GaussianMixture`` in the user's units.

    x and y are standardised inside, by buffers that :meth:`standardize_` fits and the state dict
    holds, so the log-likelihood is in nats in y's own unit whatever the scale of the data.  With
    another family than the Gaussian, ``forward`` gives a :class:`mdn.Mixture`, and y is
    standardised by a change of unit that the family allows: a shift and a scale for Student-t,
    Laplace and logistic, a scale alone for log-normal, gamma and Weibull, and none for the others.

    ``torch.jit.trace`` and ``torch.export`` record tensors only: give them a module around this one
    whose ``forward`` returns for example ``self.model(x).log_prob(y)`` or ``self.model(x).mean``.

    Args:
        in_features: F, features of x; with ``backbone``, the number of its outputs.
        out_features: D, dimensions of y.
        n_components: K.
        hidden: widths of the hidden layers (SiLU between them); not used with ``backbone``.
        backbone: any module from x to (*, in_features).
        covariance_type, family: as in :class:`MDNHead`.
        min_scale: floor of the scales in standard deviations of y, as in :class:`MDNHead`.

    Raises:
        ValueError: as :class:`MDNHead`, or a hidden width below 1.

    Example:
        >>> x, y = torch.randn(200, 3), 1000 * torch.randn(200, 1)
        >>> model = MDN(3).standardize_(x, y)
        >>> model(x)
        GaussianMixture(batch_shape=(200,), event_shape=(1,), n_components=5)
    """

    x_shift: Tensor
    x_scale: Tensor
    x_range: Tensor
    x_tails: Tensor | None
    y_shift: Tensor
    y_scale: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int = 1,
        n_components: int = 5,
        hidden: Sequence[int] = (64, 64),
        *,
        backbone: nn.Module | None = None,
        covariance_type: str = "diagonal",
        family: str = "gaussian",
        min_scale: float = MIN_SCALE,
    ) -> None:
        super().__init__()
        check_integer("in_features", in_features)
        if not (backbone is None or isinstance(backbone, nn.Module)):
            raise TypeError(f"backbone must be a torch module; got {type(backbone).__name__}")
        if not isinstance(hidden, Iterable):
            raise TypeError(f"hidden must be a sequence of widths, as (64, 64); got {hidden!r}")
        self.hidden = None if backbone is not None else tuple(hidden)
        width = in_features
        if backbone is None:
            layers: list[nn.Module] = []
            for i, units in enumerate(hidden):
                check_integer(f"hidden[{i}]", units)
                layers += [nn.Linear(width, units), nn.SiLU()]
                width = units
            backbone = nn.Sequential(*layers)
        head = MDNHead(
            width,
            out_features,
            n_components,
            covariance_type=covariance_type,
            family=family,
            min_scale=min_scale,
        )
        # works in standardised units
        self.network = nn.Sequential(backbone, head)
        self.in_features = in_features
        for name, size in (("x", ()), ("y", (out_features,))):
            self.register_buffer(f"{name}_shift", torch.zeros(size, dtype=torch.float64))
            self.register_buffer(f"{name}_scale", torch.ones(size, dtype=torch.float64))
        endless = torch.tensor([-torch.inf, torch.inf], dtype=torch.float64)
        self.register_buffer("x_range", endless)  # (2,) or (2, F), in standard units
        self.register_buffer("x_tails", None)  # (3, F) where a column has long tails

    @property
    def head(self) -> MDNHead:
        """The last layer."""
        return self.network[1]  # type: ignore[return-value]

    def standardize_(self, x: Tensor, y: Tensor) -> MDN:
        """Fits the standardisation and spreads the components over y; returns self.

        A column of x without spread gets scale 1 and has no influence; a y without spread gets its
        own size.  A column whose outliers are the greater part of its standard deviation is
        standardised after a logarithm of its tails was added to it, ``arsinh(t) + s t`` of
        ``t = (x - median) / unit``; other columns are not.  Beyond the range of a column in x,
        ``forward`` follows it for three times its width; the limit stands in for values further
        out, with a warning.

        Args:
            x: (N, F), standardised by column, or any (N, ...), by one mean and one scale.
            y: (N, D).

        Raises:
            ValueError: different lengths, a shape that does not fit, a value that is not finite, a
                target outside the range of the family.
        """
        check_rows("x", x, self.in_features if self.hidden is not None else None)
        check_rows("y", y, self.head.out_features)
        if len(x) != len(y):
            raise ValueError(f"x and y must have one length; got {len(x)} and {len(y)} rows")
        family = self.head.layout.components
        if family is not None:
            family.check_targets(self.head.family, y)
        x_shift, x_scale, x_tails, z = column_units(x if x.ndim == 2 else x.reshape(-1, 1))
        shift, scale = standardization(y) if family is None else family.standardization(y)
        scale = torch.where(scale == 0, shift.abs(), scale)
        scale = torch.where(scale > 0, scale, 1.0)
        device, dtype = self.y_shift.device, self.head.linear.weight.dtype
        # in the dtype of forward: a change of unit alters the last digit of float64 only
        standard = (y.to(device) - shift.to(device)) / scale.to(device)
        counts = family is not None and family.targets == "count"  # whose parameters have the unit
        self.head.spread_over(standard.to(dtype), self.head.layout.units_of(y) if counts else None)
        x_range = torch.stack([z.amin(0), z.amax(0)])
        shape = x_scale.shape if x.ndim == 2 else ()
        self.x_shift, self.x_scale = (a.reshape(shape).to(device) for a in (x_shift, x_scale))
        self.x_range = x_range.reshape(2, *shape).to(device)
        self.x_tails = x_tails.reshape(-1, *shape).to(device) if bool(x_tails.any()) else None
        self.y_shift, self.y_scale = shift.to(device), scale.to(device)
        return self

    def standard_units(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Returns x and y standardised, in the dtype of ``network``, to train that alone."""
        dtype = self.head.linear.weight.dtype
        return (
            self._standard_x(x).to(dtype),
            ((y - self.y_shift) / self.y_scale).to(dtype),
        )

    def _standard_x(self, x: Tensor) -> Tensor:
        """Returns x in standard units, float64, within the limits of the range of training."""
        columns = x if self.x_tails is None else compress(x, self.x_tails)
        raw = (columns - self.x_shift) / self.x_scale
        z = raw.clamp(*limits(*self.x_range))
        waits = self.training and x.is_cuda  # where a look at the values would slow training down
        recorded = is_traced() or torch.jit.is_tracing()  # type: ignore[attr-defined]
        if not (waits or recorded):
            self._warn_of_far_values(x, (z - raw).abs())
        return z

    def _warn_of_far_values(self, x: Tensor, beyond: Tensor) -> None:
        """Warns of values of x that lie beyond the limits by more than rounding, if any do."""
        far = beyond > ROUNDING * x.abs() / self.x_scale
        if not bool(far.any()):
            return
        place = ""
        if self.x_scale.ndim:
            far = far.reshape(-1, far.shape[-1])
            names = [str(int(i)) for i in far.any(0).nonzero()]
            place = f" in column{'s' * (len(names) > 1)} {', '.join(names)}"
        far = far.reshape(len(far), -1)
        rows = far.any(1).nonzero()
        first = x.reshape(far.shape)[rows[0, 0]][far[rows[0, 0]]][0]
        warn(
            f"x has values far outside the range that standardize_ was given{place}: {len(rows)} "
            f"of {len(far)} rows, the first {float(first):g} in row {int(rows[0, 0])}; the range "
            "with three times its width on either side is what counts, and its limit stands in "
            "for values beyond",
            DataWarning,
        )

    def forward(self, x: Tensor, exposure: Tensor | None = None) -> GaussianMixture | Mixture:
        """Returns the mixture for x, (*, F), in y's unit and x's dtype.

        Args:
            x: features.
            exposure: (*, 1) positive; time, area or number of units over which y is counted, for
                ``family="poisson"`` and ``"negative_binomial"``, as in
                :meth:`mdn.Mixture.with_exposure`; None counts over 1.  A unit in which the
                exposures are about 1 is a good one.

        Raises:
            TypeError: an exposure with a family that does not count.
        """
        refuse_trace(self)
        if self.hidden is not None:
            check_event(x, self.in_features, "x")
        dtype = self.head.linear.weight.dtype
        out = x.dtype if x.is_floating_point() else dtype
        standard = self._standard_x(x).to(dtype)
        if self.head.family == "gaussian":
            if exposure is not None:
                raise TypeError(
                    "exposure needs family='poisson' or 'negative_binomial', which count; got "
                    "family='gaussian'"
                )
            mixture = self.network(standard).to(torch.float64)
            return mixture.affine(self.y_shift, self.y_scale).to(out)
        units = self.y_shift, self.y_scale
        if self.head.units is not None:
            shift, scale = self.head.units
            units = self.y_shift + self.y_scale * shift, self.y_scale * scale
        params = self.head.params(self.network[0](standard))
        dist = self.head.layout.in_units(params, units, torch.float64)
        if exposure is not None:
            dist = cast(Mixture, dist).with_exposure(exposure)
        return dist.to(out)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Returns the constructor's arguments, in plain numbers and strings, and the tensors."""
        if self.hidden is None:
            raise TypeError(
                "an MDN with a backbone of its own has no state without its code; mdn.save writes "
                "its weights"
            )
        head = self.head
        config = {
            "in_features": self.in_features,
            "out_features": head.out_features,
            "n_components": head.n_components,
            "hidden": list(self.hidden),
            "covariance_type": head.covariance_type,
            "family": head.family,
            "min_scale": head.min_scale,
        }
        return config, dict(self.state_dict())

    @classmethod
    def from_state(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> MDN:
        """Returns the model of which :meth:`state` gave this state."""
        model = cls(**config)
        model.network.to(tensors["network.1.linear.weight"].dtype)
        model.load_state_dict(tensors)
        return model.eval()

    def _apply(self, fn: Any, recurse: bool = True) -> MDN:
        with exact(self, ("x_shift", "x_scale", "x_range", "x_tails", "y_shift", "y_scale")):
            super()._apply(fn, recurse)
        return self

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        # older files have no range, and no tails
        endless = torch.tensor([-torch.inf, torch.inf], dtype=torch.float64)
        state_dict = {prefix + "x_range": endless, **state_dict}
        # the buffers of x have the shape that standardize_ gave them
        for name in ("x_shift", "x_scale", "x_range", "x_tails"):
            saved = state_dict.get(prefix + name)
            if saved is not None:
                setattr(self, name, self.x_shift.new_empty(saved.shape))
            elif name == "x_tails":
                self.x_tails = None
        super()._load_from_state_dict(state_dict, prefix, *args)
