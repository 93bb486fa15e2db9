"""The server: its temporary folder, and what leaves it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from jfusion.app import serve
from jfusion.errors import UserError

gradio_client = pytest.importorskip("gradio_client")


def get(address, path=""):
    with urllib.request.urlopen(address.rstrip("/") + path) as answer:
        return answer.read().decode(), answer.headers


def test_the_temporary_folder_goes_with_the_page():
    with serve.temporary_folder() as folder:
        (folder / "jobs").mkdir()
        (folder / "jobs/x.png").write_bytes(b"x")
    assert not folder.exists()


def test_what_a_killed_process_left_is_removed(tmp_path):
    left, ours = tmp_path / "jfusion-app-999999999-x", tmp_path / f"jfusion-app-{os.getpid()}-x"
    for folder in (left, ours):
        folder.mkdir()
    serve._remove_left(tmp_path)
    assert ours.exists() and not left.exists()


def test_old_files_are_removed_and_new_ones_stay(tmp_path):
    for name in ("old/a.png", "new/b.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    for path in (tmp_path / "old/a.png", tmp_path / "old"):
        os.utime(path, (0, 0))
    serve.remove_old(tmp_path, 60)
    serve.remove_old(tmp_path, 60)
    assert (tmp_path / "new/b.png").exists() and not (tmp_path / "old/a.png").exists()


def test_the_page_names_no_path_and_no_other_machine(served):
    address, folder, _ = served
    assert address.startswith("http://127.0.0.1:")
    page, headers = get(address)
    config, _ = get(address, "/config")
    for text in (page, config):
        assert str(folder) not in text and str(Path.home()) not in text
        assert str(Path(serve.__file__).parents[2]) not in text
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "googleapis" not in page and "cdnjs" not in page
    assert json.loads(config)["title"] == "jfusion"


@pytest.mark.parametrize("path", ["/etc/hostname", __file__, "jfusion/cli.py"])
def test_files_of_the_machine_are_not_served(served, path):
    with pytest.raises(urllib.error.HTTPError):
        get(served[0], f"/gradio_api/file={path}")


def test_a_program_fuses(served, pair, tmp_path):
    address, folder, _ = served
    client = gradio_client.Client(address, verbose=False, download_files=str(tmp_path))
    a, b = map(gradio_client.handle_file, pair)
    said = (a, b, "auto", "laplacian", "", False, "TIFF")
    result, values = client.predict(*said, api_name="/fuse")
    assert Path(result).suffix == ".tif" and values["EN"] > 0
    with pytest.raises(Exception, match="reads no text"):
        client.predict(a, b, "IVF", "laplacian", "two people", False, "PNG", api_name="/fuse")
    with pytest.raises(Exception, match="not in the list"):
        client.predict(a, b, "IVF", "../x", "", False, "PNG", api_name="/fuse")
    assert str(folder) not in json.dumps(client.view_api(return_format="dict"))


def test_an_error_without_a_place_on_the_page_is_one_line_in_its_corner(monkeypatch):
    gradio = pytest.importorskip("gradio")
    from jfusion.app import examples
    from jfusion.app.problems import in_a_corner

    for error, said in (
        (UserError("no room in /tmp/folder/x.png; free some"), "no room in x.png; free some"),
        (ValueError("of ours"), "fault"),
    ):
        monkeypatch.setattr(examples, "pair", raising(error))
        with pytest.raises(gradio.Error, match=said) as caught:
            in_a_corner(lambda task: examples.pair(task, None))("IVF")
        assert caught.value.print_exception is False


def raising(error):
    def function(*_):
        raise error

    return function


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_ctrl_c_ends_the_page_with_the_exit_code_of_every_command(tmp_path, number, code):
    command = [sys.executable, "-m", "jfusion", "app"]
    variables = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables) as process:
        assert process.stdout.readline().startswith("jfusion app: http://127.0.0.1:")
        process.send_signal(number)
        assert process.wait(60) == code
    assert not list(tmp_path.glob("jfusion-app-*"))
