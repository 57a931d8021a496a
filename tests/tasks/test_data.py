"""Rows of data sets: every format, and mistakes that name the file, the line and the mend."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from diffpo.tasks.data import Row, Source, column, read_rows

ROWS = [{"question": "1+1?", "answer": "2"}, {"question": "\u0663?", "answer": "3"}]


def write(path: Path, text: str) -> Source:
    path.write_text(text, encoding="utf-8")
    return Source.parse(str(path), "train")


def values(source: Source) -> list[dict[str, object]]:
    return [dict(row.values) for row in read_rows(source, "question, answer", "task.data")]


def test_json_lines(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, ROWS)) + "\n\n")
    assert values(source) == ROWS
    assert read_rows(source, "", "")[1].place == f"{tmp_path}/a.jsonl, line 2"


def test_json_list(tmp_path: Path) -> None:
    assert values(write(tmp_path / "a.json", json.dumps(ROWS))) == ROWS


def test_csv_keeps_leading_zeros(tmp_path: Path) -> None:
    source = write(tmp_path / "a.csv", 'Puzzle,Solution\n0012,"a, b"\n')
    assert values(source) == [{"Puzzle": "0012", "Solution": "a, b"}]
    assert read_rows(source, "", "")[0].place == f"{tmp_path}/a.csv, line 2"


def test_parquet_and_a_folder_go_through_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    short = pyarrow.table({"answer": pyarrow.array([5.1, None], pyarrow.float32())})
    parquet.write_table(short, tmp_path / "short.parquet")
    folder = tmp_path / "set"
    folder.mkdir()
    for split, rows in (("train", ROWS), ("test", ROWS[:1])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    assert values(Source.parse(str(tmp_path / "a.parquet"), "train")) == ROWS
    assert values(Source.parse(str(tmp_path / "short.parquet"), "train")) == [{"answer": 5.1}, {}]
    assert values(Source.parse(str(folder), "train")) == ROWS
    assert values(Source.parse(str(folder), "test")) == ROWS[:1]
    with pytest.raises(ValueError, match="no such data set here: ValueError: Unknown split"):
        values(Source.parse(str(folder), "dev"))
    (folder / "train_more.jsonl").write_text('{"other": 1}\n')
    with pytest.raises(
        ValueError, match=r"set: no such data set here: CastError: Couldn't cast other.*; task.data takes"
    ):
        read_rows(Source.parse(str(folder), "train"), "prompt", "task.data")
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["prompt", "prompt"])
    parquet.write_table(table, tmp_path / "twice.parquet")
    with pytest.raises(ValueError, match=r"twice.parquet: cannot be read as parquet: ArrowInvalid: .*\(prompt\)"):
        values(Source.parse(str(tmp_path / "twice.parquet"), "train"))


def test_a_folder_of_csv_keeps_what_its_cells_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    folder = tmp_path / "set"
    folder.mkdir()
    text = "prompt,answer\n0012,0430\nNA,null\n1.0,1e3\n"
    as_file = values(write(folder / "train.csv", text))
    assert as_file[:2] == [{"prompt": "0012", "answer": "0430"}, {"prompt": "NA", "answer": "null"}]
    assert values(Source.parse(str(folder), "train")) == as_file


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": ', "a.jsonl, line 2: not JSON"),
        ("a.jsonl", '{"a": 1}\n[1]\n', r"a.jsonl, line 2: a row is an object with columns, got '\[1\]'"),
        ("a.jsonl", "\n", "a.jsonl: no rows in it; task.data takes a .jsonl"),
        ("a.json", "{", "a.json: not JSON"),
        ("a.json", "{}", "a.json: a data set is a list of rows"),
        ("a.json", "[1]", "a.json, row 1: a row is an object with columns"),
        ("a.json", '{"a": 1}\n{"a": 2}\n', "a.json: a data set is a list of rows; a row a line is .jsonl"),
        ("a.jsonl", '[\n{"a": 1},\n{"a": 2}\n]\n', "a.jsonl: a list of rows, not a row a line: call it .json"),
        ("a.csv", "a,b\n", "a.csv: no rows in it"),
        (
            "a.csv",
            "prompt,answer\nWhat is 3, 4?,7\n",
            "a.csv, line 2: 3 cells for the 2 columns prompt, answer: quote a",
        ),
        ("a.csv", 'a,b\n1,2\n"x\ny",2\n3\n', "a.csv, line 5: 1 cells for the 2 columns"),
        ("a.csv", 'a,b\n1,"2\n3,4\n', "a.csv, line 2: not CSV: unexpected end of data"),
        ("a.csv", "a,a\n1,2\n", "a.csv, line 1: column 'a' stands twice"),
        ("a.csv", "a;b\n1;2\n", "a.csv, line 1: one column, 'a;b': cells are parted by commas, in a .tsv by tabs"),
        (
            "a.csv",
            "prompt,b\n\"[{'role': 'user'}]\",2\n",
            "a.csv, line 2: column 'prompt' looks like messages, but is: n",
        ),
        ("a.jsonl", '{"a": 1}\n{"a": 1, "a": 2}\n', "a.jsonl, line 2: key 'a' stands twice"),
        ("a.jsonl", '{"a": "\\ud800"}\n', "a.jsonl, line 1: '.ud800' is half a character"),
        (
            "a.jsonl",
            '{"a": ' + "[" * 10**5 + "}\n",
            "a.jsonl, line 1: maximum recursion depth|a.jsonl, line 1: not JSON",
        ),
        (
            "a.xlsx",
            "a,b\n1,2\n",
            r"a.xlsx: not a kind of file that is read; task.data takes a .jsonl, .json, .csv or .tsv",
        ),
        ("a.parquet", "no parquet", "a.parquet: cannot be read as parquet: ArrowInvalid: "),
        ("a.jsonl.gz", "{}", "a.jsonl.gz: not a whole gzip file: "),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, name: str, text: str, error: str) -> None:
    with pytest.raises(ValueError, match=error) as caught:
        values(write(tmp_path / name, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ("prompt,answer\nä,1\n".encode("utf-16"), "a.csv: the text is UTF-16: save it as UTF-8"),
        ("prompt,answer\nö,2\nä,1\n".encode("latin-1"), r"a.csv, line 2: not UTF-8 \(Latin-1\?\), save it as UTF-8"),
    ],
)
def test_other_encodings_are_named(tmp_path: Path, data: bytes, error: str) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(ValueError, match=error):
        values(Source.parse(str(tmp_path / "a.csv"), "train"))


def test_what_spreadsheets_and_packers_do_to_files(tmp_path: Path) -> None:
    rows = [{"prompt": "a, b", "answer": "1"}, {"prompt": "c\nd", "answer": "2"}]
    lines = 'prompt,answer\n"a, b",1\n"c\nd",2\n'
    (tmp_path / "a.csv").write_text(lines, encoding="utf-8-sig")
    (tmp_path / "b.tsv").write_text(lines.replace(",1", "\t1").replace(",2", "\t2").replace("t,", "t\t"))
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(lines.replace("\n", "\r\n").encode()))
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    assert values(Source.parse(str(tmp_path / "a.csv"), "train")) == rows
    assert values(Source.parse(str(tmp_path / "b.tsv"), "train")) == rows
    assert [row["answer"] for row in values(Source.parse(str(tmp_path / "c.csv.gz"), "train"))] == ["1", "2"]
    assert values(Source.parse(str(tmp_path / "d.jsonl.gz"), "train")) == rows
    every = read_rows(Source.parse(str(tmp_path / "*.*v"), "train"), "", "")
    assert [row.values for row in every] == rows * 2 and every[3].place == f"{tmp_path}/b.tsv, line 3"
    assert values(write(tmp_path / "E.CSV", 'prompt, answer\n"a, b", 1\n"c\nd", 2\n')) == rows
    assert values(write(tmp_path / "f.csv", 'prompt,answer\n"a, b", 1\n'))[0]["answer"] == " 1"
    assert values(write(tmp_path / "g.csv", "prompt,answer\na,1\n,\n \n, \n")) == [{"prompt": "a", "answer": "1"}]
    with pytest.raises(ValueError, match=r"\*\.jsonl: no such file; task.data takes"):
        values(Source.parse(str(tmp_path / "none" / "*.jsonl"), "train"))


def test_messages_in_cells_and_nulls_and_large_cells(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hi"}]
    cell = json.dumps(turns).replace('"', '""')
    large = "x" * 200_000
    assert values(write(tmp_path / "a.csv", f'prompt,answer\n"{cell}",[1]\n{large},2\n')) == [
        {"prompt": turns, "answer": "[1]"},
        {"prompt": large, "answer": "2"},
    ]
    assert values(write(tmp_path / "a.jsonl", '{"prompt": "a\u2028b", "level": null}\n')) == [{"prompt": "a\u2028b"}]


def test_a_missing_file_says_what_is_wanted() -> None:
    with pytest.raises(ValueError) as caught:
        read_rows(Source.parse("nope.jsonl", "train"), "question, answer", "task.data")
    assert str(caught.value) == (
        "nope.jsonl: no such file; task.data takes a .jsonl, .json, .csv or .tsv (also .gz), or .parquet file or a hub "
        "data set with the columns question, answer"
    )


@pytest.mark.parametrize("name", ["nope.txt", "/nope/rows.txt", "a/b/rows", "../rows", "HERE/rows.txt"])
def test_a_path_is_not_looked_for_on_the_hub(name: str, tmp_path: Path) -> None:
    name = name.replace("HERE", str(tmp_path))
    with pytest.raises(ValueError, match=f"{name}: no such file; task.data takes"):
        read_rows(Source.parse(name, "train"), "", "task.data")


@pytest.mark.parametrize("name", ["gsm8k", "openai/gsm8k:main:test", "c4:en.noblocklist", "Open-R1/some-v1.1:a/b"])
def test_names_of_the_hub_are_no_paths(name: str) -> None:
    assert not Source.parse(name, "train").is_local


def test_a_data_set_that_is_not_here_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def offline(name: str, config: str | None, split: str) -> None:
        raise ConnectionError(f"Couldn't reach {name!r} {config} {split}\non the Hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(ValueError) as caught:
        read_rows(Source("openai/gsm8k", "test", "main"), "question, answer", "task.test_data")
    assert str(caught.value) == (
        "openai/gsm8k:main:test: no such data set here: ConnectionError: Couldn't reach 'openai/gsm8k' main test on "
        "the Hub; fetch it where there is a connection (`hf download --repo-type dataset openai/gsm8k`), or "
        "task.test_data takes a .jsonl, .json, .csv or .tsv (also .gz), or .parquet file or a hub data set with the "
        "columns question, answer"
    )


def test_sources() -> None:
    assert Source.parse("openai/gsm8k:main", "test") == Source("openai/gsm8k", "test", "main")
    assert Source.parse("openai/gsm8k:main:train", "test") == Source("openai/gsm8k", "train", "main")
    assert Source.parse("ankner/math-500", "test") == Source("ankner/math-500", "test")
    assert str(Source("openai/gsm8k", "test", "main")) == "openai/gsm8k:main:test"


def test_columns() -> None:
    row = Row("a.jsonl, line 3", {"answer": "", "number": 5, "text": "x", "none": None})
    assert column(row, ["absent", "text"]) == "x"
    assert column(row, ["number"], (str, int)) == 5
    for names, kind, error in (
        (["number"], str, "a.jsonl, line 3: column 'number' must be text, got '5'"),
        (["answer"], str, "column 'answer' must be text, got ''"),
        (["none"], str, "column 'none' is missing; the row's columns: answer, number, text, none"),
        (["a", "b"], str, "column 'a' or 'b' is missing"),
        (["text"], (list, int), "column 'text' must be a list or a whole number, got 'x'"),
    ):
        with pytest.raises(ValueError) as caught:
            column(row, names, kind)
        assert error in str(caught.value)
