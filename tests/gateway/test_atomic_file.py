"""Files survive a failure or a power cut at every single operation (P10), shown on a disk made of dictionaries."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from mqttprov.gateway.atomic_file import FileLayer, remove_file, remove_leftovers, set_aside, write_file
from mqttprov.gateway.credentials_file import CredentialsFile

DIRECTORY = Path("/gateway")
TARGET = DIRECTORY / ".credentials"
OLD = b'{"credentialsValue":"old","credentialsType":"ACCESS_TOKEN","status":"SUCCESS"}'
NEW = b'{"credentialsValue":"new","credentialsType":"ACCESS_TOKEN","status":"SUCCESS"}'


class PowerCut(BaseException):
    """Not an Exception: nothing in the code under test can go on after it."""


class _ModelDisk:
    """A disk with a cache: content and names count only when flushed; a power cut takes the rest.

    `fail_at` is the number of the operation that fails, with `error`. A write is torn: half of it happens first.
    """

    def __init__(self, fail_at: int = 0, error: type[BaseException] = OSError) -> None:
        self.contents: dict[int, bytes] = {}  # inode -> content as programs see it
        self.durable_contents: dict[int, bytes] = {}
        self.names_now: dict[Path, int] = {}
        self.durable_names: dict[Path, int] = {}
        self.operations = 0
        self.fail_at, self.error = fail_at, error
        self._next_inode = 1

    def put(self, path: Path, content: bytes) -> None:
        """Have a file on the disk from the start."""
        self.contents[0] = self.durable_contents[0] = content
        self.names_now[path] = self.durable_names[path] = 0

    def after_power_cut(self, *, names_flushed: bool) -> dict[Path, bytes]:
        """What a reboot finds; names that were not flushed may have made it, content that was not has not."""
        names = self.names_now if names_flushed else self.durable_names
        return {path: self.durable_contents.get(inode, b"") for path, inode in names.items()}

    def visible(self) -> dict[Path, bytes]:
        """What programs see now."""
        return {path: self.contents[inode] for path, inode in self.names_now.items()}

    def _operation(self) -> None:
        self.operations += 1
        if self.operations == self.fail_at:
            raise self.error(28, "injected")

    def create(self, path: Path) -> int:
        self._operation()
        if path in self.names_now:
            raise FileExistsError(path)
        inode, self._next_inode = self._next_inode, self._next_inode + 1
        self.contents[inode] = b""
        self.names_now[path] = inode
        return inode

    def write(self, descriptor: int, content: bytes) -> int:
        half = len(content) // 2 + 1
        self.contents[descriptor] += content[:half]  # short writes are allowed, so this is always one
        self._operation()
        return half

    def flush(self, descriptor: int) -> None:
        self._operation()
        self.durable_contents[descriptor] = self.contents[descriptor]

    def close(self, descriptor: int) -> None:
        assert descriptor in self.contents
        self._operation()

    def rename(self, source: Path, target: Path) -> None:
        self._operation()
        if source not in self.names_now:
            raise FileNotFoundError(source)
        self.names_now[target] = self.names_now.pop(source)

    def unlink(self, path: Path) -> None:
        self._operation()
        if path not in self.names_now:
            raise FileNotFoundError(path)
        del self.names_now[path]

    def flush_directory(self, directory: Path) -> None:
        self._operation()
        assert directory == DIRECTORY
        self.durable_names = dict(self.names_now)

    def read(self, path: Path, max_bytes: int) -> bytes:
        self._operation()
        if path not in self.names_now:
            raise FileNotFoundError(path)
        return self.contents[self.names_now[path]][:max_bytes]

    def names(self, directory: Path) -> list[str]:
        self._operation()
        return [path.name for path in self.names_now if path.parent == directory]


def save(disk: FileLayer) -> None:
    """Replace the content of the target."""
    write_file(TARGET, NEW, disk)


def count_operations(work: Callable[[FileLayer], None]) -> int:
    """How many operations the work takes when nothing fails."""
    disk = _ModelDisk()
    disk.put(TARGET, OLD)
    work(disk)
    return disk.operations


def disk_failing_at(operation: int, error: type[BaseException], work: Callable[[FileLayer], None]) -> _ModelDisk:
    """A disk with the old content on which the work failed at that operation."""
    disk = _ModelDisk(operation, error)
    disk.put(TARGET, OLD)
    with pytest.raises(error):
        work(disk)
    return disk


def test_power_cut_at_any_operation_leaves_old_or_new_content() -> None:
    """Whichever operation is the last one, and whether or not unflushed names made it: never half a file (P10)."""
    for operation in range(1, count_operations(save) + 1):
        disk = disk_failing_at(operation, PowerCut, save)
        for names_flushed in (False, True):
            assert disk.after_power_cut(names_flushed=names_flushed)[TARGET] in {OLD, NEW}, operation


def test_failure_at_any_operation_leaves_old_or_new_content_and_no_leftover() -> None:
    """A full or broken disk: the error is reported, the old content is whole, the temporary file is gone (P10)."""
    for operation in range(1, count_operations(save) + 1):
        disk = disk_failing_at(operation, OSError, save)
        visible = disk.visible()
        assert list(visible) == [TARGET], operation
        assert visible[TARGET] in {OLD, NEW}


def test_a_save_that_returned_survives_a_power_cut() -> None:
    """Content and name are flushed before write_file returns (P10)."""
    disk = _ModelDisk()
    disk.put(TARGET, OLD)
    save(disk)
    assert disk.after_power_cut(names_flushed=False) == {TARGET: NEW}


def test_a_removal_that_returned_survives_a_power_cut() -> None:
    """The removed name does not come back; removing nothing is fine."""
    disk = _ModelDisk()
    disk.put(TARGET, OLD)
    remove_file(TARGET, disk)
    assert disk.after_power_cut(names_flushed=False) == {}
    remove_file(TARGET, disk)


def test_leftovers_of_power_cuts_are_removed_at_the_next_read() -> None:
    """Temporary files do not pile up; other files stay."""
    disk = disk_failing_at(3, PowerCut, save)
    disk.fail_at = 0
    other = DIRECTORY / "identity.json"
    disk.names_now[other] = 0
    assert len(disk.visible()) == 3
    assert CredentialsFile(DIRECTORY, disk).read() == OLD
    assert set(disk.visible()) == {TARGET, other}


def test_the_gateway_reads_old_or_nothing_or_new_after_any_fault_in_reading() -> None:
    """CredentialsFile.read() never raises for a broken disk (P10)."""

    def read(disk: FileLayer) -> None:
        assert CredentialsFile(DIRECTORY, disk).read() in {None, OLD}

    for operation in range(1, count_operations(read) + 1):
        disk = _ModelDisk(operation)
        disk.put(TARGET, OLD)
        read(disk)


@pytest.mark.parametrize("content", [b"", OLD[:30], b'{"status":"SUCCESS"}', b"\xff", b"x" * 100_000])
def test_unusable_credentials_are_set_aside(tmp_path: Path, content: bytes) -> None:
    """Half a file counts as absent and is kept for people to look at (P10)."""
    file = CredentialsFile(tmp_path)
    file.path.write_bytes(content)
    assert file.read() is None
    assert (tmp_path / ".credentials.bad").read_bytes() == content
    assert file.read() is None


def test_unusable_credentials_that_cannot_be_set_aside_do_not_stop_a_gateway(tmp_path: Path) -> None:
    """Here the .bad name is taken by a directory; the next save simply replaces the file (P10)."""
    file = CredentialsFile(tmp_path)
    file.path.write_bytes(b"junk")
    (tmp_path / ".credentials.bad" / "x").mkdir(parents=True)
    assert file.read() is None
    file.save(NEW)
    assert file.read() == NEW


def test_the_vendors_file_can_be_read(tmp_path: Path) -> None:
    """Unknown members like caCert do not matter."""
    file = CredentialsFile(tmp_path)
    content = b'{"credentialsValue":"t","credentialsType":"ACCESS_TOKEN","status":"SUCCESS","caCert":"ca.pem"}'
    file.path.write_bytes(content)
    assert file.read() == content


def test_saving_reading_and_removing_on_a_real_disk(tmp_path: Path) -> None:
    """The real operations: replaced content, owner-only permissions whatever the umask, nothing left beside it (P6)."""
    file = CredentialsFile(tmp_path)
    assert file.read() is None
    old_umask = os.umask(0)
    try:
        file.save(OLD)
        file.save(NEW)
    finally:
        os.umask(old_umask)
    assert file.read() == NEW
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [".credentials"]
    file.remove()
    file.remove()
    assert file.read() is None


def test_a_directory_that_is_gone_is_an_error_when_saving(tmp_path: Path) -> None:
    """Saving reports it; reading finds nothing."""
    file = CredentialsFile(tmp_path / "gone")
    with pytest.raises(OSError, match="No such file"):
        file.save(NEW)
    assert file.read() is None


def test_real_leftovers_and_bad_files(tmp_path: Path) -> None:
    """The helpers work on a real directory, too."""
    path = tmp_path / "a"
    (tmp_path / "a.0123abcd.tmp").touch()
    (tmp_path / "ab.0123abcd.tmp").touch()
    path.write_bytes(b"x")
    remove_leftovers(path)
    assert set_aside(path) == tmp_path / "a.bad"
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.bad", "ab.0123abcd.tmp"}
