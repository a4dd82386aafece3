"""Explains a loss on the user's own rows: why it may be negative, and whether the density is right.

::

    report = mdn.explain_nll(model, X_test, y_test, train=(X_train, y_train))
    print(report)  # sign, unit, floor, health, fit
    report.verdict  # "fine: negative because y's unit is large for its noise ..."
    report.plot()
"""

from __future__ import annotations

from ._command import explain_file, write
from ._report import NLLReport, explain_nll

__all__ = ["explain_nll", "NLLReport", "explain_file", "write"]
