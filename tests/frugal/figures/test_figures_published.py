"""Published numbers: as the file has them, and one sentence for a file that cannot be used."""

import pytest

from frugal.errors import FrugalError
from frugal.figures import published


def test_parameters_that_are_numbers_are_columns():
    rows = published.load("cusnn")
    (best,) = rows.query("metric == 'speedup' and layer == 50").to_dict("records")
    assert (best["C"], best["H"], best["N"], best["B"], best["hardware"]) == (512, 7, 512, 1, "V100")
    assert best["value"] == 8.001254972029013
    assert rows.query("metric == 'speedup_arithmetic_mean'")["layer"].isna().all()  # "1-50" is no number


@pytest.mark.parametrize(
    ("text", "said"), [(None, "there is no such file"), ("system,source\na,b\n", "column hardware is missing")]
)
def test_a_file_that_cannot_be_used_is_told_in_one_sentence(tmp_path, text, said):
    if text:
        (tmp_path / "cusnn.csv").write_text(text)
    with pytest.raises(FrugalError, match=said):
        published.load("cusnn", tmp_path)
