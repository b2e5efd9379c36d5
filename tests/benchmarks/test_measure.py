from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.decodes import Decodes
from benchmarks.measure import CommandError, disk_of, measured
from benchmarks.process_tree import Watch, members, memory_of

HELD = 200_000_000

CHILD_HOLDS_MEMORY = f"""
import subprocess, sys
child = "held = bytearray(b'x') * {HELD}; import time; time.sleep(0.6)"
subprocess.run([sys.executable, "-c", child], check=True)
"""

ORPHAN_IS_BUSY = """
import subprocess, sys, time
busy = "import time; end = time.process_time() + 0.5\\nwhile time.process_time() < end: pass\\ntime.sleep(0.4)"
middle = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {busy!r}])"
subprocess.run([sys.executable, "-c", middle], check=True)
time.sleep(2)
"""


def measure(tmp_path: Path, program: str) -> tuple[float, float, int]:
    usage = measured(["-c", program], folder=tmp_path, log=tmp_path / "log", decodes=tmp_path / "decodes")
    return usage.seconds, usage.processor_seconds, usage.peak_memory


def test_memory_of_a_child_counts(tmp_path: Path) -> None:
    _, _, memory = measure(tmp_path, CHILD_HOLDS_MEMORY)
    assert HELD < memory < 1.5 * HELD


@pytest.mark.slow
def test_processor_time_of_a_process_whose_parent_has_ended_counts(tmp_path: Path) -> None:
    seconds, processor_seconds, _ = measure(tmp_path, ORPHAN_IS_BUSY)
    assert 0.5 <= processor_seconds < 1.5
    assert seconds > 2


def test_sleeping_takes_wall_time_only(tmp_path: Path) -> None:
    seconds, processor_seconds, _ = measure(tmp_path, "import time; time.sleep(1)")
    assert seconds > 1
    assert processor_seconds < 0.9


def test_what_a_command_leaves_running_ends_with_it(tmp_path: Path) -> None:
    left = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid)"
    measure(tmp_path, left)
    process = int((tmp_path / "log").read_text())
    until = time.monotonic() + 5
    while memory_of(process) and time.monotonic() < until:
        time.sleep(0.05)
    assert memory_of(process) == 0


def test_a_command_that_fails_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"exit status 3[\s\S]*no such luck[\s\S]*All of it: .*log"):
        measure(tmp_path, "import sys; print('no such luck', file=sys.stderr); sys.exit(3)")


def test_memory_that_is_given_back_stays_the_peak() -> None:
    watch = Watch(os.getsid(0))
    held = bytearray(b"x") * HELD
    watch.look()
    peak = watch.peak_memory
    del held
    watch.look()
    assert watch.peak_memory >= peak > HELD, "others in the session may have grown meanwhile"


def test_a_session_holds_its_processes_only() -> None:
    program = [sys.executable, "-c", "input()"]
    process = subprocess.Popen(program, stdin=subprocess.PIPE, start_new_session=True)
    try:
        assert [member.process for member in members(process.pid)] == [process.pid]
        assert process.pid not in {member.process for member in members(os.getsid(0))}
    finally:
        process.communicate(b"\n")


def test_decodes_are_counted_in_children_and_headers_are_not_decodes(tmp_path: Path) -> None:
    boards = tmp_path / "boards"
    for folder in ("train/good", "ground_truth/scratch"):
        (boards / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(boards / folder / "0.png")
    image, mask = boards / "train/good/0.png", boards / "ground_truth/scratch/0.png"
    Image.new("RGB", (8, 8)).save(tmp_path / "elsewhere.png")
    child = f"from PIL import Image; Image.open({str(mask)!r}).load()"
    program = f"""
import os, subprocess, sys
from PIL import Image
Image.open({str(image)!r}).size
twice = Image.open({str(image)!r})
twice.load(), twice.load()
Image.open({str(image)!r}).convert("L")
Image.open({str(tmp_path / "elsewhere.png")!r}).load()
subprocess.run([sys.executable, "-c", {child!r}], check=True)
os._exit(0)
"""
    measure(tmp_path, program)
    assert Decodes.read(tmp_path / "decodes", boards) == Decodes(images=2, masks=1)


def test_decodes_of_an_earlier_command_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "decodes").write_text(f"{tmp_path}/train/0.png\n")
    measure(tmp_path, "pass")
    assert Decodes.read(tmp_path / "decodes", tmp_path) == Decodes(images=0, masks=0)


def test_a_file_with_two_names_takes_its_room_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(os.urandom(100_000))
    before = disk_of(tmp_path)
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    assert disk_of(tmp_path) == before >= 100_000
