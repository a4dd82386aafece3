"""Tests of Columns: each kind of column against pandas and NumPy, and every refusal."""

from __future__ import annotations

import datetime
import json
import re
import subprocess
import sys
import warnings
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from sklearn.linear_model import LinearRegression

from mdn.tables import MAX_CATEGORIES, Columns
from mdn.warnings import DataWarning

NAN = float("nan")


def mixed(n: int = 40, seed: int = 0) -> pd.DataFrame:
    """A column of each kind, with and without missing values."""
    rng = np.random.default_rng(seed)
    number = rng.normal(size=n)
    gaps = np.where(rng.random(n) < 0.3, np.nan, rng.normal(size=n))
    text = rng.choice(["red", "green", "blue"], n).astype(object)
    frame = pd.DataFrame(
        {
            "number": number,
            "gaps": gaps,
            "count": rng.integers(-5, 100, n),
            "flag": rng.random(n) < 0.3,
            "maybe": pd.array(rng.choice([True, False, None], n), dtype="boolean"),
            "color": text,
            "size": pd.Categorical(rng.choice(["S", "M", "L"], n), categories=["S", "M", "L"]),
            "word": np.where(rng.random(n) < 0.2, None, text),
        }
    )
    return frame


def encoded(X: Any) -> pd.DataFrame:
    """The training rows themselves, under the names of the encoded columns."""
    columns = Columns.fit(X)
    return pd.DataFrame(columns.transform(X), columns=columns.names)


def one(values: Any, **options: Any) -> pd.DataFrame:
    return pd.DataFrame({"a": pd.Series(values, **options)})


# -- numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f4", "f8", "i1", "i8", "u2", "u8", "f2", "g"])
def test_a_plain_numeric_array_is_passed_on_as_float64(dtype: str) -> None:
    """transform is astype(float64), a new C-contiguous array; names count from x0."""
    X = np.arange(12).reshape(4, 3).astype(dtype)
    columns = Columns.fit(X)
    found = columns.transform(X)
    np.testing.assert_array_equal(found, X.astype(np.float64))
    assert found.dtype == np.float64
    assert found.flags.c_contiguous and found.flags.owndata and found.flags.writeable
    assert columns.names == ["x0", "x1", "x2"]
    assert columns.feature_names is None
    assert columns.n_features_in == 3
    assert columns.numeric.dtype == bool
    assert columns.numeric.all()


def test_transform_leaves_x_alone_and_its_result_is_not_x() -> None:
    """X is not written to, neither now nor through the result."""
    X = np.array([[1.0, NAN], [2.0, 3.0]])
    X.flags.writeable = False
    columns = Columns.fit(X)
    columns.transform(X)[:] = 7.0
    np.testing.assert_array_equal(X, [[1.0, NAN], [2.0, 3.0]])
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    Columns.fit(frame).transform(frame)[:] = 7.0
    np.testing.assert_array_equal(frame.to_numpy(), [[1.0, 3.0], [2.0, 4.0]])


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "Float64", "Int64"])
def test_a_numeric_frame_gives_the_matrix_of_to_numpy(dtype: str) -> None:
    """A DataFrame of numbers is its own matrix, under its own names."""
    X = pd.DataFrame(np.arange(12).reshape(4, 3), columns=["a", "b", "c"]).astype(dtype)
    found = encoded(X)
    np.testing.assert_array_equal(found.to_numpy(), X.to_numpy(dtype=np.float64))
    assert list(found.columns) == ["a", "b", "c"]


@pytest.mark.parametrize("n", [1, 2, 7, 30])
def test_missing_numbers_get_the_training_median_and_an_indicator(n: int) -> None:
    """fill = nanmedian of training, to the last bit; the indicator is isnan."""
    rng = np.random.default_rng(n)
    X = rng.normal(size=(n + 2, 4)) * 10.0 ** rng.integers(-8, 8, 4)
    X[0] = NAN
    X[1:, 1] = np.where(rng.random(n + 1) < 0.5, NAN, X[1:, 1])
    X[1, 1] = 3.0
    columns = Columns.fit(X)
    new = np.full((3, 4), NAN)
    new[1] = 5.0
    found = columns.transform(new)
    expected = np.where(np.isnan(new), np.nanmedian(X, axis=0), new)
    np.testing.assert_array_equal(found[:, ::2], expected)
    np.testing.assert_array_equal(found[:, 1::2], np.isnan(new))
    assert columns.names[:4] == ["x0", "x0 is missing", "x1", "x1 is missing"]
    assert columns.numeric.tolist() == [True, False] * 4


def test_only_a_column_with_gaps_in_training_has_an_indicator() -> None:
    """One column of two has a gap: three encoded columns."""
    found = encoded(pd.DataFrame({"full": [1.0, 2.0, 3.0], "gap": [5.0, NAN, 1.0]}))
    expected = {"full": [1.0, 2, 3], "gap": [5.0, 3, 1], "gap is missing": [0.0, 1, 0]}
    assert_frame_equal(found, pd.DataFrame(expected))


def test_a_gap_that_training_had_not_is_filled_with_a_warning() -> None:
    """One warning names the columns and counts their rows; no column is added."""
    train = pd.DataFrame({"a": [1.0, 2.0, 9.0], "b": [0.0, 1.0, 5.0], "c": [True, True, False]})
    columns = Columns.fit(train)
    new = pd.DataFrame(
        {"a": [NAN, 4.0, NAN], "b": [1.0, 2.0, 3.0], "c": [None, True, False]}, dtype=object
    )
    message = "missing values where training had none: column 'a' (2 rows), column 'c' (1 row); "
    with pytest.warns(UserWarning, match=re.escape(message)) as caught:
        found = columns.transform(new)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(found, [[2, 1, 2 / 3], [4, 2, 1], [2, 3, 0]])


def test_a_column_without_a_value_is_ignored_with_a_warning() -> None:
    """It is 0 in training and later, whatever it then holds; the others are as ever."""
    X = pd.DataFrame({"a": [NAN, NAN], "b": [1.0, 2.0], "c": [None, None]})
    message = "X has no value at all in column 'a', column 'c'; what has no value is ignored"
    with pytest.warns(UserWarning, match=message) as caught:
        columns = Columns.fit(X)
    assert len(caught) == 1
    assert columns.names == ["a", "b", "c"]
    new = pd.DataFrame({"a": [3.0, NAN], "b": [1.0, 2.0], "c": ["x", None]})
    np.testing.assert_array_equal(columns.transform(new), [[0, 1, 0], [0, 2, 0]])
    many = np.full((2, 7), NAN)
    with pytest.warns(UserWarning, match="column 3, column 4 and 2 more; what has"):
        Columns.fit(many)


def test_the_median_of_huge_numbers_does_not_overflow() -> None:
    """Between 1.6e308 and 1.7e308 lies 1.65e308, though their sum is infinite."""
    columns = Columns.fit([[1.6e308], [1.7e308], [None]])
    np.testing.assert_allclose(columns.transform([[None]]), [[1.65e308, 1.0]], rtol=1e-15)


def test_decimals_and_numbers_among_objects_are_cast() -> None:
    """Any real number is a float64; None, NaN and NA among them are missing."""
    values = [Decimal("1.5"), 2, np.float32(0.25), None, True, NAN, pd.NA, Decimal("NaN")]
    expected = [[1.5, 0], [2, 0], [0.25, 0], [1.25, 1], [1, 0], [1.25, 1], [1.25, 1], [1.25, 1]]
    X = np.array(values, dtype=object)[:, None]
    np.testing.assert_array_equal(Columns.fit(X).transform(X), expected)
    decimals = pl.DataFrame({"a": [Decimal("1.5"), None, Decimal("2.5")]})
    np.testing.assert_array_equal(encoded(decimals), [[1.5, 0], [2.0, 1], [2.5, 0]])


def test_a_constant_column_stays() -> None:
    """Neither a constant number nor a single category is dropped."""
    found = encoded(pd.DataFrame({"a": [2.0, 2.0], "b": ["x", "x"]}))
    assert_frame_equal(found, pd.DataFrame({"a": [2.0, 2.0], "b=x": [1.0, 1.0]}))


# -- booleans and categories ------------------------------------------------------------------


def test_booleans_are_zero_and_one() -> None:
    """One column of 0 and 1, not counted among the numbers; in arrays too."""
    X = np.array([[True, False], [False, False], [True, True]])
    columns = Columns.fit(X)
    np.testing.assert_array_equal(columns.transform(X), X.astype(float))
    assert not columns.numeric.any()
    assert_frame_equal(
        encoded(pd.DataFrame(X, columns=["a", "b"])), pd.DataFrame(X * 1.0, columns=["a", "b"])
    )


@pytest.mark.parametrize(
    "values",
    [
        pd.array([True, None, True, False], dtype="boolean"),
        pd.Series([True, None, True, False], dtype=object),
        pd.Series([True, NAN, np.True_, False], dtype=object),
    ],
    ids=["nullable", "None", "NaN"],
)
def test_a_missing_boolean_is_the_share_of_true_with_an_indicator(values: Any) -> None:
    """Two of three are True."""
    columns = Columns.fit(one(values))
    found = columns.transform(one(values))
    np.testing.assert_array_equal(found, [[1, 0], [2 / 3, 1], [1, 0], [0, 0]])
    assert columns.names == ["a", "a is missing"]
    assert not columns.numeric.any()


def test_a_boolean_column_accepts_zeros_and_ones_later() -> None:
    """A boolean column with gaps often comes back as float; a number may be a boolean."""
    columns = Columns.fit(one([True, False, None]))
    found = columns.transform(one([1.0, NAN, 0.0]))
    np.testing.assert_array_equal(found, [[1, 0], [0.5, 1], [0, 0]])
    np.testing.assert_array_equal(Columns.fit([[2], [3]]).transform([[True]]), [[1.0]])


@pytest.mark.parametrize(
    "values",
    [
        pd.Series(["b", "a", "c", "b"], dtype=object),
        pd.Series(["b", "a", "c", "b"], dtype="string"),
        pd.Series(pd.Categorical(["b", "a", "c", "b"], categories=["c", "b", "a", "unused"])),
        pd.Series(pd.Categorical(["b", "a", "c", "b"], ordered=True)),
        pd.Series(pd.Categorical([2, 1, 10, 2])),
        pd.Series(pd.cut([1.5, 0.5, 2.5, 1.5], [0.0, 1.0, 2.0, 3.0])),
    ],
    ids=["object", "string", "category", "ordered", "numbers", "intervals"],
)
def test_categories_are_those_of_get_dummies(values: pd.Series) -> None:
    """One 0/1 column for each category of training, in the order of their text."""
    X = pd.DataFrame({"a": values})
    expected = pd.get_dummies(X.astype(str), prefix_sep="=", dtype=float)
    assert_frame_equal(encoded(X), expected)
    assert not Columns.fit(X).numeric.any()


def test_a_missing_category_is_a_level_of_its_own() -> None:
    """As get_dummies(dummy_na=True), the indicator last; without one in training, all zero."""
    X = one(["x", None, "y", NAN], dtype=object)
    expected = pd.get_dummies(X, prefix_sep="=", dummy_na=True, dtype=float)
    expected = expected.rename(columns={"a=nan": "a is missing"})
    assert_frame_equal(encoded(X), expected)
    columns = Columns.fit(one(["x", "y"]))
    with pytest.warns(UserWarning, match=re.escape("training had none: column 'a' (1 row); ")):
        found = columns.transform(one(["y", None]))
    np.testing.assert_array_equal(found, [[0, 1], [0, 0]])


def test_unseen_categories_are_zero_and_counted_in_one_warning() -> None:
    """Rows per column, with the first of them."""
    train = pd.DataFrame({"a": ["x", "y"], "b": ["u", "v"], "c": ["k", "k"]})
    new = pd.DataFrame({"a": ["z", "x", "w"], "b": ["v", "q", "u"], "c": ["k", "k", "k"]})
    columns = Columns.fit(train)
    message = (
        "X has categories that training had not: column 'a' (2 rows, the first 'z'), column 'b' "
        "(1 row, the first 'q'); such rows are encoded as none of the categories"
    )
    with pytest.warns(UserWarning, match=re.escape(message)) as caught:
        found = columns.transform(new)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(found, [[0, 0, 0, 1, 1], [1, 0, 0, 0, 1], [0, 0, 1, 0, 1]])


def test_the_most_frequent_categories_are_kept() -> None:
    """64 of 70; ties by name; the rarer ones are all zero, and later ones are as they are."""
    often = [f"often {i:02d}" for i in range(60)]
    once = [f"once {i}" for i in range(10)]
    X = one(once + 2 * often)
    columns = Columns.fit(X)
    kept = sorted(often + once[:4])
    assert len(kept) == MAX_CATEGORIES
    assert columns.names == [f"a={level}" for level in kept]
    expected = pd.get_dummies(X["a"], dtype=float)[kept]
    np.testing.assert_array_equal(columns.transform(X), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not columns.transform(one(["new"])).any()


def test_a_column_of_objects_is_read_by_its_values() -> None:
    """An object array is as the frame of the same columns."""
    X = mixed().drop(columns="maybe")
    array = X.to_numpy(dtype=object)
    np.testing.assert_array_equal(Columns.fit(array).transform(array), encoded(X))
    assert Columns.fit(array).names[-4:] == ["x6=blue", "x6=green", "x6=red", "x6 is missing"]


def test_a_list_of_rows_keeps_numbers_beside_strings() -> None:
    """np.asarray alone would make the text "1" of the number 1."""
    rows = [[1, "a", True], [2.5, "b", None], [None, "a", False]]
    columns = Columns.fit(rows)
    assert columns.names == ["x0", "x0 is missing", "x1=a", "x1=b", "x2", "x2 is missing"]
    expected = [[1, 0, 1, 0, 1, 0], [2.5, 0, 0, 1, 0.5, 1], [1.75, 1, 1, 0, 0, 0]]
    np.testing.assert_array_equal(columns.transform(rows), expected)


def test_an_array_of_strings_holds_categories() -> None:
    """dtype <U: each column as get_dummies has it."""
    X = np.array([["a", "x"], ["b", "x"], ["a", "y"]])
    expected = pd.get_dummies(pd.DataFrame(X, columns=["x0", "x1"]), prefix_sep="=", dtype=float)
    assert_frame_equal(encoded(X), expected)


# -- frames of every library ------------------------------------------------------------------


def test_polars_and_pyarrow_frames_are_as_pandas() -> None:
    """One table in three libraries: the same description and the same matrix."""
    X = mixed()
    columns = Columns.fit(X)
    others = pl.from_pandas(X), pa.Table.from_pandas(X)
    for other in others:
        assert Columns.fit(other).state()[0] == columns.state()[0]
        np.testing.assert_array_equal(columns.transform(other), columns.transform(X))
    assert isinstance(others[0]["size"].dtype, pl.Enum | pl.Categorical)
    assert pa.types.is_dictionary(others[1]["size"].type)


def test_dtypes_that_pandas_has_not() -> None:
    """polars' enums, wide integers, null columns and NaN beside null."""
    X = pl.DataFrame(
        {
            "enum": pl.Series(["b", None, "a"], dtype=pl.Enum(["b", "a"])),
            "wide": pl.Series([1, 2, None], dtype=pl.Int128),
            "float": [NAN, None, 4.0],
        }
    )
    expected = pd.DataFrame(
        {
            "enum=a": [0.0, 0, 1],
            "enum=b": [1.0, 0, 0],
            "enum is missing": [0.0, 1, 0],
            "wide": [1.0, 2, 1.5],
            "wide is missing": [0.0, 0, 1],
            "float": [4.0, 4, 4],
            "float is missing": [1.0, 1, 0],
        }
    )
    assert_frame_equal(encoded(X), expected)
    with pytest.warns(UserWarning, match="no value at all in column 'a'"):
        assert Columns.fit(pl.DataFrame({"a": [None, None]})).names == ["a"]


@pytest.mark.parametrize("names", [[0, 1], [("a", 1), ("a", 2)]], ids=["numbers", "pairs"])
def test_names_that_are_not_strings_are_ignored(names: list[Any]) -> None:
    """As in scikit-learn: feature_names is None, and any other names may follow."""
    X = pd.DataFrame([[1.0, "u"], [2.0, "v"]])
    X.columns = pd.Index(names)
    columns = Columns.fit(X)
    assert columns.feature_names is None
    assert columns.names == ["x0", "x1=u", "x1=v"]
    other = pd.DataFrame({"k": [3.0], "l": ["v"]})
    np.testing.assert_array_equal(columns.transform(other), [[3, 0, 1]])


def test_an_array_follows_a_frame_by_position() -> None:
    """Fitted by name, rows without names are taken in the order of training."""
    X = mixed()[["number", "color"]]
    columns = Columns.fit(X)
    np.testing.assert_array_equal(columns.transform(X.to_numpy()), columns.transform(X))


def test_only_frames_load_narwhals_and_nothing_loads_scikit_learn() -> None:
    """An array of numbers pays for no library but NumPy."""
    code = """
import sys
import numpy as np
from mdn.tables import Columns
Columns.fit(np.eye(3)).transform(np.eye(3))
print(sorted({"narwhals", "pandas", "polars", "pyarrow", "sklearn"} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


# -- laws -------------------------------------------------------------------------------------

CELLS = {
    "number": st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=False)),
    "integer": st.integers(-(2**70), 2**70),
    "boolean": st.one_of(st.none(), st.booleans()),
    "category": st.one_of(st.none(), st.sampled_from(["a", "b", "", "c is missing", "é"])),
}


@st.composite
def tables(draw: st.DrawFn) -> np.ndarray:
    """Object arrays (N, F) of columns of any kind."""
    n = draw(st.integers(1, 12))
    kinds = draw(st.lists(st.sampled_from(sorted(CELLS)), min_size=1, max_size=4))
    table = np.empty((n, len(kinds)), dtype=object)
    for i, kind in enumerate(kinds):
        table[:, i] = draw(st.lists(CELLS[kind], min_size=n, max_size=n))
    return table


def quietly(f: Any, *arguments: Any) -> Any:
    """Empty columns, gaps and unseen categories are warned of; that has its own tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return f(*arguments)


@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_the_training_rows_changes_nothing(table: np.ndarray, random: Any) -> None:
    """state() of permuted rows is the same, to the last bit and the sign of a zero."""
    order = list(range(len(table)))
    random.shuffle(order)
    first, second = (quietly(Columns.fit, t).state()[0] for t in (table, table[order]))
    assert json.dumps(first) == json.dumps(second)


@given(tables(), st.data())
def test_a_batch_is_its_rows_one_by_one(table: np.ndarray, data: st.DataObject) -> None:
    """transform of many rows = transform of each, also of rows that training had not."""
    columns = quietly(Columns.fit, table[: data.draw(st.integers(1, len(table)))])
    whole = quietly(columns.transform, table)
    rows = [quietly(columns.transform, table[i : i + 1]) for i in range(len(table))]
    np.testing.assert_array_equal(whole, np.concatenate(rows))
    assert whole.shape == (len(table), len(columns.names)) == (len(table), len(columns.numeric))
    assert np.isfinite(whole).all()


@given(tables())
def test_from_state_gives_the_same_encoder_back(table: np.ndarray) -> None:
    """Through JSON without NaN, transform is the same bit for bit."""
    columns = quietly(Columns.fit, table)
    text = json.dumps(columns.state()[0], allow_nan=False)
    again = Columns.from_state(json.loads(text), {})
    assert again == columns
    assert json.dumps(again.state()[0]) == text
    before, after = (quietly(c.transform, table) for c in (columns, again))
    assert before.tobytes() == after.tobytes()
    assert again.names == columns.names
    np.testing.assert_array_equal(again.numeric, columns.numeric)


def test_from_state_keeps_the_names_of_a_frame() -> None:
    """feature_names too, and with them the check of names."""
    columns = Columns.fit(mixed())
    again = Columns.from_state(json.loads(json.dumps(columns.state()[0])), {})
    assert again.feature_names == columns.feature_names == list(mixed().columns)
    assert again.names == columns.names
    with pytest.raises(ValueError, match="Feature names must be in the same order"):
        again.transform(mixed()[list(mixed().columns)[::-1]])


def test_a_change_of_the_state_does_not_change_the_encoder() -> None:
    """Whoever changes the description changes no encoder."""
    columns = Columns.fit(mixed())
    before = json.dumps(columns.state()[0])
    description = columns.state()[0]
    description["feature_names"].clear()
    description["columns"][5]["levels"].clear()
    assert json.dumps(columns.state()[0]) == before


# -- refusals ---------------------------------------------------------------------------------


def sklearn_says(train: pd.DataFrame, new: pd.DataFrame) -> str:
    with pytest.raises(ValueError, match="feature names") as caught:
        LinearRegression().fit(train, np.zeros(len(train))).predict(new)
    return str(caught.value)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["b", "a", "c"], "Feature names must be in the same order as they were in fit.\n"),
        (["a", "b", "z"], "Feature names unseen at fit time:\n- z\nFeature names seen at fit time"),
        (["a", "b"], "Feature names seen at fit time, yet now missing:\n- c\n"),
        (["a", "b", "c", "d"], "Feature names unseen at fit time:\n- d\n"),
        (list("tuvwxyz"), "unseen at fit time:\n- t\n- u\n- v\n- w\n- x\n- ...\nFeature names"),
    ],
)
def test_other_names_are_refused_in_scikit_learns_words(names: list[str], message: str) -> None:
    """The missing and the extra names, each; the text is scikit-learn's own."""
    train = pd.DataFrame(np.eye(3), columns=["a", "b", "c"])
    new = pd.DataFrame(np.ones((2, len(names))), columns=names)
    start = "The feature names should match those that were passed during fit.\n"
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        Columns.fit(train).transform(new)
    assert str(caught.value).startswith(start)
    assert str(caught.value) == sklearn_says(train, new)
    with pytest.raises(ValueError, match=re.escape(message)):
        Columns.fit(train).transform(pl.from_pandas(new))


def test_another_number_of_columns_is_refused() -> None:
    """In scikit-learn's words."""
    message = "X has 3 features, but Columns is expecting 5 features as input."
    with pytest.raises(ValueError, match=message):
        Columns.fit(np.ones((4, 5))).transform(np.ones((2, 3)))
    with pytest.raises(ValueError, match=message):
        Columns.fit(pd.DataFrame(np.ones((4, 5)), columns=list("abcde"))).transform(np.ones((2, 3)))


@pytest.mark.parametrize("X", [scipy.sparse.csr_matrix(np.eye(3)), scipy.sparse.eye_array(3)])
def test_sparse_is_refused_with_a_remedy(X: Any) -> None:
    """A matrix and an array."""
    with pytest.raises(TypeError, match=r"X must be dense, but is a sparse .*pass X\.toarray\(\)"):
        Columns.fit(X)
    with pytest.raises(TypeError, match="sparse"):
        Columns.fit(np.eye(3)).transform(X)


def test_sparse_columns_of_a_frame_are_read() -> None:
    """pandas' sparse dtype is a number like others, one column at a time."""
    X = pd.DataFrame({"a": pd.arrays.SparseArray([0.0, 0.0, 2.0])})
    np.testing.assert_array_equal(encoded(X), [[0.0], [0.0], [2.0]])


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (
            np.ones(5),
            "Expected 2D array, got 1D array instead: X has shape (5,). Reshape your data",
        ),
        ([1.0, 2.0], "array.reshape(-1, 1) if it has a single feature or array.reshape(1, -1) if"),
        (pd.Series([1.0]), "Expected 2D array, got 1D array instead"),
        (3.0, "Expected 2D array, got scalar array instead: X must be an array (N, F)"),
        (np.ones((2, 2, 2)), "got 3D array instead: X must be an array (N, F) or a DataFrame"),
        (pl.LazyFrame({"a": [1]}), "a lazy one collected; got LazyFrame of shape ()"),
        ([[1, 2], [3]], "X must have rows of one length"),
        (np.empty((0, 3)), "Found array with 0 sample(s) (shape=(0, 3)) while a minimum of 1 is"),
        (
            np.empty((12, 0)),
            "Found array with 0 feature(s) (shape=(12, 0)) while a minimum of 1 is",
        ),
        (pd.DataFrame(index=range(3)), "0 feature(s) (shape=(3, 0)) while a minimum of 1 is req"),
        (pl.DataFrame({"a": []}), "0 sample(s) (shape=(0, 1)) while a minimum of 1 is required."),
        (np.array([[1j]]), "Complex data not supported: X of dtype complex128 is complex; pass"),
        (one([1.0, 2j]), "Complex data not supported: row 0 of column 'a' of X is complex; pass"),
        (np.array([["a", 1j]], dtype=object), "Complex data not supported: row 0 of column 1 of X"),
        (
            pd.DataFrame([[1, 2, 3]], columns=["a", "b", "a"]),
            "X must have a name of its own for each column; Expected unique column names, got: - ",
        ),
    ],
)
def test_what_is_no_table_of_real_numbers_is_refused(X: Any, message: str) -> None:
    """A shape, an emptiness or a name that cannot be; ValueError, in scikit-learn's words."""
    with pytest.raises(ValueError, match=re.escape(message)):
        Columns.fit(X)


DAY = datetime.date(2020, 1, 1)
DATE_CURE = "convert it to numbers, booleans or strings (a date to the seconds since a day)"


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (one(pd.to_datetime(["2020"])), "X in column 'a' has dtype Datetime"),
        (one(pd.to_timedelta([1])), "X in column 'a' has dtype Duration"),
        (one(pd.period_range("2020", periods=1)), "X in column 'a' holds a Period in row 0"),
        (one([None, DAY]), "X in column 'a' holds a date in row 1"),
        (one([pd.NaT, 1], dtype=object), "X in column 'a' holds a NaTType in row 0"),
        (one([1, b"x"]), "X in column 'a' holds a bytes in row 1"),
        (pl.DataFrame({"a": [DAY]}), "X in column 'a' has dtype Date"),
        (pl.DataFrame({"a": [datetime.time(1)]}), "X in column 'a' has dtype Time"),
        (pl.DataFrame({"a": [[1]]}), "X in column 'a' has dtype List(Int64)"),
        (pl.DataFrame({"a": [{"b": 1}]}), "X in column 'a' has dtype Struct"),
        (pa.table({"a": [b"x"]}), "X in column 'a' has dtype Binary"),
        (
            np.array([["2020-01-01"]], dtype="M8[D]"),
            "X must hold numbers, booleans or strings; got",
        ),
        (np.array([[b"x"]]), "X must hold numbers, booleans or strings; got dtype |S1"),
        (
            np.array([[np.timedelta64(1, "s"), 1]], dtype=object),
            "X in column 0 holds a timedelta64",
        ),
    ],
)
def test_columns_of_no_kind_are_refused_with_a_remedy(X: Any, message: str) -> None:
    """Dates, durations, bytes, nested: column, dtype or type with its row, and what to do."""
    with pytest.raises(TypeError, match=re.escape(message)) as caught:
        Columns.fit(X)
    assert DATE_CURE in str(caught.value)


def test_an_odd_object_is_refused_as_scikit_learn_expects() -> None:
    """Its estimator checks put a dict among floats and look for these words."""
    X = np.ones((3, 2)).astype(object)
    X[1, 0] = {"foo": "bar"}
    message = "X in column 0 holds a dict in row 1, but every argument must be a string, a number"
    with pytest.raises(TypeError, match=message) as caught:
        Columns.fit(X)
    assert re.search("argument must be .* string.* number", str(caught.value))


def test_strings_beside_numbers_are_refused() -> None:
    """Column, the first value of each and its row."""
    message = (
        "X in column 'a' mixes strings and other values (3 in row 0, 'x' in row 2); make them all "
        "strings, as by astype(str), or all numbers"
    )
    with pytest.raises(TypeError, match=re.escape(message)):
        Columns.fit(one([3, None, "x", 4.5]))
    with pytest.raises(TypeError, match=re.escape("('u' in row 0, True in row 1)")):
        Columns.fit([["u"], [True]])


def test_numbers_in_an_array_of_strings_are_refused() -> None:
    """np.array makes text of numbers beside strings; each would become a category."""
    X = np.array([["a", 1.5], ["b", 2.5]])
    message = (
        "X is an array of strings whose column 1 reads as numbers ('1.5' in row 0); pass a "
        "DataFrame or an array of dtype object with the numbers as numbers, or a DataFrame where "
        "that column has dtype category if they are categories"
    )
    with pytest.raises(TypeError, match=re.escape(message)):
        Columns.fit(X)
    frame = pd.DataFrame(X).astype("category")
    assert Columns.fit(frame).names == ["x0=a", "x0=b", "x1=1.5", "x1=2.5"]


# -- numbers as text --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "numbers", "words"),
    [
        (["1.5", " 2", "-3e-2", "+.5"], [1.5, 2.0, -0.03, 0.5], "decimal point, '1.5' in row 0"),
        (["NA", "1,5", "2", "", "-0,25"], [NAN, 1.5, 2.0, NAN, -0.25], "decimal comma, '1,5' in"),
        (["1,234.5", "12"], [1234.5, 12.0], "decimal point, ',' between thousands, '1,234.5' in"),
        (["1.234,5", "12"], [1234.5, 12.0], "decimal comma, '.' between thousands, '1.234,5' in"),
        (["1,234,567", "5"], [1234567.0, 5.0], "decimal point, ',' between thousands"),
        (["1,234", "0,5"], [1.234, 0.5], "decimal comma, '1,234' in row 0"),
        (["1,234", "0.5"], [1234.0, 0.5], "decimal point, ',' between thousands"),
        (["1 234,5", "2\u00a0000"], [1234.5, 2000.0], "decimal comma, '1 234,5' in row 0"),
        (["1'234", "\u22125", "?", "n/a"], [1234.0, -5.0, NAN, NAN], "decimal point"),
        (["0", "10", None], [0.0, 10.0, NAN], "decimal point, '0' in row 0"),
    ],
)
def test_text_that_is_all_numbers_is_read_as_numbers(
    texts: list[Any], numbers: list[float], words: str
) -> None:
    """The numbers by hand; the encoding is that of these, and the next table is read alike."""
    frame = pd.DataFrame({"a": texts})
    with pytest.warns(DataWarning, match=re.escape("X holds numbers as text")) as caught:
        columns = Columns.fit(frame)
    assert f"column 'a' ({words}" in str(caught[0].message)
    assert len(caught) == 1
    expected = Columns.fit(pd.DataFrame({"a": numbers}))
    assert columns.names == expected.names
    loaded = Columns.from_state(json.loads(json.dumps(columns.state()[0])), {})
    for one_of in (columns, loaded):
        np.testing.assert_array_equal(
            one_of.transform(frame), expected.transform([[v] for v in numbers])
        )
        found = one_of.transform(pd.DataFrame({"a": numbers}))
        np.testing.assert_array_equal(found, expected.transform([[v] for v in numbers]))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("texts", [["01234", "1234", "00501"], ["1", "2", "other"], ["NA", "-"]])
def test_codes_and_categories_stay_text(texts: list[str]) -> None:
    """A leading zero, a value that is no number, markers alone; a categorical dtype."""
    assert Columns.fit(pd.DataFrame({"a": texts})).names == [f"a={t}" for t in sorted(texts)]
    frame = pd.DataFrame({"a": pd.Categorical(["1", "2"])})
    assert Columns.fit(frame).names == ["a=1", "a=2"]
    assert Columns.fit(pl.DataFrame({"a": ["1,5", "2"]}, schema={"a": pl.Categorical})).names == [
        "a=1,5",
        "a=2",
    ]


def test_text_that_is_numbers_in_two_ways_is_refused() -> None:
    """All with a comma before three digits: thousands or decimals."""
    message = (
        "X in column 'a' holds numbers as text that can be read in two ways ('1,234' in row 1 is "
        "1234 or 1.234); convert it to numbers"
    )
    with pytest.raises(TypeError, match=re.escape(message)):
        Columns.fit(pd.DataFrame({"a": ["7", "1,234"]}))


@pytest.mark.filterwarnings("ignore:X holds numbers as text")
def test_text_in_another_notation_than_in_training_is_refused() -> None:
    """Row and value, at predict."""
    columns = Columns.fit(pd.DataFrame({"a": ["1,5", "2,5"]}))
    message = (
        "X in column 'a' held numbers as text in training (decimal comma), but row 1 is '3.5'; "
        "write it as in training, or make it NaN"
    )
    with pytest.raises(TypeError, match=re.escape(message)):
        columns.transform(pd.DataFrame({"a": ["3,5", "3.5"]}))


def test_a_column_of_numbers_with_a_few_words_is_warned_of() -> None:
    """More than half of its many values are numbers: the first that is none, with its row."""
    texts = [f"{i / 7:.3f}" for i in range(40)]
    texts[17] = "<0.1"
    with pytest.warns(DataWarning, match=r"beside other text.*column 'a' \('<0.1' in row 17\)"):
        Columns.fit(pd.DataFrame({"a": texts}))


def test_an_identifier_is_warned_of_by_name() -> None:
    """Most of its values differ; 20 categories in 30 rows do not."""
    frame = pd.DataFrame({"id": [f"p{i}" for i in range(50)], "city": ["a", "b"] * 25})
    message = r"an identifier.*column 'id' \(50 of 50 rows have a value of their own\)"
    with pytest.warns(DataWarning, match=message) as caught:
        Columns.fit(frame)
    assert "city" not in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Columns.fit(pd.DataFrame({"a": [f"p{i % 20}" for i in range(30)]}))


@pytest.mark.parametrize(
    "value",
    [np.inf, -np.inf, 10**400, Decimal("1e400")],
    ids=["inf", "-inf", "whole", "decimal"],
)
def test_an_infinite_value_is_refused_with_its_row(value: Any) -> None:
    """Infinite, or too large for float64: row, column, remedy; at fit and at transform."""
    message = (
        "X must be finite or missing, but is infinite (inf) or beyond the range of float64 in row "
        "2 of column {}; drop the row, or make the value NaN to have it taken as missing"
    )
    values = [1.0, NAN, value]
    frame = pd.DataFrame({"a": [0.0, 1.0, 2.0], "b": pd.Series(values, dtype=object)})
    with pytest.raises(ValueError, match=re.escape(message.format("'b'"))):
        Columns.fit(frame)
    fitted = Columns.fit(pd.DataFrame({"a": [1.0, 2.0], "b": [1.0, 3.0]}))
    with pytest.raises(ValueError, match=re.escape(message.format("'b'"))):
        fitted.transform(frame)
    if isinstance(value, float):
        for X in (np.array([values]).T, pl.DataFrame({"a": values})):
            place = "0" if isinstance(X, np.ndarray) else "'a'"
            with pytest.raises(ValueError, match=re.escape(message.format(place))):
                Columns.fit(X)


def test_a_longdouble_beyond_float64_is_refused() -> None:
    """1e4000 is finite as a longdouble and infinite as a float64."""
    X = np.array([[1.0], [1.0]], dtype=np.longdouble)
    X[1] = np.finfo(np.longdouble).max
    with pytest.raises(ValueError, match="beyond the range of float64 in row 1 of column 0"):
        Columns.fit(X)


@pytest.mark.parametrize(
    ("train", "new", "message"),
    [
        (
            [1.0, 2.0],
            [None, "x"],
            "held numbers in training, but now strings or categories (x in",
        ),
        ([True, False], ["x"], "held booleans in training, but now strings or categories (x in"),
        (["x", "y"], [NAN, 3.0], "held strings or categories in training, but now numbers (3.0 in"),
        (["x", "y"], [True], "held strings or categories in training, but now booleans (1.0 in"),
    ],
)
def test_another_kind_than_in_training_is_refused(train: Any, new: Any, message: str) -> None:
    """Both kinds, the first value and its row."""
    end = f"{len(new) - 1}); convert it to what it was"
    with pytest.raises(TypeError, match=re.escape("X in column 'a' " + message)) as caught:
        Columns.fit(one(train)).transform(one(new))
    assert str(caught.value).endswith(f"row {end}")


def test_a_number_that_is_no_boolean_is_refused() -> None:
    """A boolean column takes 0 and 1, not 2."""
    message = (
        "X in column 'a' held booleans in training, but now 2 in row 1; pass True and False, or"
    )
    with pytest.raises(ValueError, match=message):
        Columns.fit(one([True, False])).transform(one([1.0, 2.0]))


def test_names_of_strings_and_numbers_together_are_refused() -> None:
    """As in scikit-learn, with the types found."""
    X = pd.DataFrame([[1, 2]], columns=["a", 0])
    message = "Feature names are only supported if all input features have string names, but X has"
    with pytest.raises(TypeError, match=f"{message} names of type int and str; rename them"):
        Columns.fit(X)


@pytest.mark.parametrize(
    "description",
    [
        {},
        None,
        {"feature_names": None, "columns": [{"kind": "number"}]},
        {"feature_names": None, "columns": [{"kind": "odd", "levels": []}]},
        {"feature_names": None, "columns": [{"kind": "number", "levels": [], "fill": NAN}]},
        {"feature_names": None, "columns": [{"kind": "number", "levels": [], "fill": "x"}]},
        {"feature_names": None, "columns": [{"kind": "number", "levels": [], "more": 1}]},
        {"feature_names": ["a", "b"], "columns": [{"kind": "number", "levels": []}]},
    ],
)
def test_a_description_of_something_else_is_refused(description: Any) -> None:
    """Incomplete, of an unknown kind, with a fill that is no number, or of other columns."""
    message = r"config must be one that Columns\.state\(\) made; got another \("
    with pytest.raises(ValueError, match=message):
        Columns.from_state(description, {})
