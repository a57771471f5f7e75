"""The server: what it answers, to whom, and that a browser shows a new point and runs nothing of the runs' texts."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import watched
from waiting import HANG

from tutelage.common.errors import TutelageError
from tutelage.watch import scan
from tutelage.watch.server import PORT, Server, is_local

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\u202e"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    watched.steps(watched.begin(root, "gkd"), 1, 3)
    (root / "mine-report").mkdir()
    (root / "mine-report" / "report.html").write_text("<p>the report")
    (root / "mine-report" / "table.csv").write_text("a,b")
    (tmp_path / "secret.txt").write_text("secret")
    return root


@pytest.fixture
def server(runs: Path) -> Iterator[Server]:
    server = Server(runs, port=0)
    yield server
    server.close()


def ask(server: Server, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and text; a path is sent as it is, dots and all."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=HANG)
    content = body if body is None or isinstance(body, str) else json.dumps(body)
    connection.request("GET" if body is None else "POST", path, content, headers)
    answer = connection.getresponse()
    found = answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode()
    connection.close()
    return found


def test_the_page_its_script_the_news_and_the_report(server: Server) -> None:
    status, headers, page = ask(server, "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.search(r"(src|href)=\"(?!page\.js|data:)", page)  # nothing from elsewhere
    assert not re.search(r" style=| on\w+=", page)  # the policy would refuse them
    status, headers, code = ask(server, "/page.js")
    assert (status, headers["content-type"]) == (200, "text/javascript; charset=utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", code)
    status, headers, news = ask(server, "/news", {"gkd": [0, 0]})
    assert (status, headers["content-type"]) == (200, "application/json; charset=utf-8")
    assert json.loads(news)["curves"]["gkd"]["step"] == [1, 2, 3]
    assert "access-control-allow-origin" not in headers
    assert headers["x-content-type-options"] == "nosniff"
    status, headers, report = ask(server, "/reports/mine-report/")
    assert (status, report) == (200, "<p>the report")
    assert headers["content-security-policy"].startswith("sandbox allow-scripts allow-popups")
    assert "allow-same-origin" not in headers["content-security-policy"]
    assert ask(server, "/reports/mine-report/table.csv")[2] == "a,b"


@pytest.mark.parametrize(
    "path",
    [
        *("/reports/../secret.txt", "/reports/mine-report/../../secret.txt", "/reports/mine-report/../gkd/config.json"),
        *("/reports/mine-report/%2e%2e/%2e%2e/secret.txt", "/reports/mine-report/..%2f..%2fsecret.txt"),
        *("/reports/mine-report//etc/passwd", "/reports/mine-report/%2fetc%2fpasswd", "/reports/%2e%2e/secret.txt"),
        *("/reports/gkd/config.json", "/reports/mine-report/report.html%00", "/reports/mine-report/" + "a" * 5000),
        *("/secret.txt", "/../secret.txt", "/page.html", "/news"),
    ],
)
def test_other_paths_are_refused(server: Server, path: str) -> None:
    status, headers, text = ask(server, path)
    assert status in (400, 403, 404, 405)
    assert "secret" not in text
    assert "root:" not in text
    assert "content-security-policy" in headers or status == 400  # 400: no HTTP


def test_only_this_machine_is_answered_and_only_what_the_page_asks(server: Server) -> None:
    assert ask(server, "/", Host=f"localhost:{server.port}")[0] == 200
    for host in ("evil.example", f"evil.example:{server.port}", "127.0.0.1.evil.example"):  # DNS rebinding
        assert ask(server, "/news", {}, Host=host)[0] == 403
    for body in ("", "[", "[1]", '{"gkd": "x"}', "[" * 100_000):
        status, _, text = ask(server, "/news", body)
        assert (status, text.count("\n")) == (400, 0)
    assert ask(server, "/news", {"x" * 300_000: [0, 0]})[0] == 413


def test_a_taken_port_is_one_line_or_another_port(runs: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(TutelageError, match=f"^127.0.0.1:{number} cannot be listened on: choose another --port"):
            Server(runs, port=number)
    first, second = Server(runs), Server(runs)
    assert first.port != second.port
    assert second.port != PORT
    first.close()
    second.close()
    assert [is_local(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.1", "box")] == [
        *(True, True, True, False, False, False)
    ]


def test_the_page_says_that_a_folder_has_no_runs(server: Server) -> None:
    assert re.search(r'<p id="none" [^>]*hidden>No run has begun', ask(server, "/")[2])
    assert 'getElementById("none").hidden = news.runs.length > 0' in ask(server, "/page.js")[2]


@pytest.mark.slow
def test_a_browser_shows_a_new_point_and_runs_no_text(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on the path to open the page in")
    monkeypatch.setattr(scan, "FRESH_SECONDS", -1.0)
    folder = watched.begin(runs, "hostile", stage=HOSTILE)
    watched.steps(folder, 1, 3)
    watched.sample(folder, 3, HOSTILE, HOSTILE)
    (watched.begin(runs, "bad", running=False, stage="bad") / "error.txt").write_text(HOSTILE)
    watched.finish(watched.begin(runs, "bad-2", stage="bad"))
    server = Server(runs, port=0)
    news, calls = server._view.news, []

    def write_meanwhile(have: Any) -> Any:  # a step and a sample come between two questions
        found = news(have)
        calls.append(have)
        if len(calls) == 2:
            watched.steps(folder, 4, 4, loss=0.123)
            watched.sample(folder, 4, "What?", "a later answer")
        return found

    monkeypatch.setattr(server._view, "news", write_meanwhile)
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    command = [browser, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=9000"]
    try:
        done = subprocess.run([*command, "--dump-dom", server.url], capture_output=True, text=True, timeout=HANG)
    finally:
        server.close()
    page = done.stdout
    assert len(calls) >= 4
    assert [have.get("hostile") for have in calls[:4]] == [None, (0, 0), (1, 3), (1, 4)]
    assert "step 4 of 20" in page
    assert ">0.123</span>" in page
    assert "a later answer" in page
    assert len(re.findall(r"<span>bad</span><small>seed \d, [^<]*\d\d:\d\d", page)) == 2  # told apart by their time
    assert "&lt;/script&gt;&lt;script&gt;document.title='owned'" in page  # the texts are there, as text
    assert "<title>owned</title>" not in page
    assert "<title>2 running · runs · Tutelage</title>" in page
    assert not re.search(r"<img\b", page)
