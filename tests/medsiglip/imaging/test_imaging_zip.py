import io
import os
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from medsiglip.imaging import ImageError, list_files, open_images, read_pictures, zips
from medsiglip.imaging.source import Source, read_source
from medsiglip.imaging.workers.pool import DecoderPool


def png(value=7):
    file = io.BytesIO()
    Image.fromarray(np.full((2, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def zip_bytes(members, packing=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packing) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


@pytest.fixture
def write(tmp_path):
    def write(data):
        path = tmp_path / "a.zip"
        path.write_bytes(data)
        return path

    return write


def listed(path):
    """Member names that are read, and the problems by member name."""
    found = list_files([path])
    problems = {problem.file.removeprefix(f"{path}").removeprefix("/"): problem.reason for problem in found.problems}
    return [source.member for source in found.files], problems


def claim(data, offset, number, width="<I"):
    """The archive with a field of its first central directory entry changed. Source: PKWARE APPNOTE 4.3.12."""
    changed = bytearray(data)
    struct.pack_into(width, changed, data.index(b"PK\x01\x02") + offset, number)
    return bytes(changed)


FLAGS, PACKED, UNPACKED, LOCAL_HEADER = 8, 20, 24, 42


# What is listed


def test_members_are_sorted_and_what_is_no_picture_is_left_out(write):
    wanted = ["IM0001", "a.dcm", "deep/er/b.png", "v.nii.gz"]
    others = [
        "folder/",
        ".hidden.png",
        ".git/x.png",
        "__MACOSX/a.png",
        "deep/__MACOSX/._b.png",
        "DICOMDIR",
        "labels.csv",
    ]
    path = write(zip_bytes([(name, png()) for name in [*others, *reversed(wanted)]]))
    assert listed(path) == (wanted, {})


def test_pictures_of_members_carry_both_names_and_the_members_hash(write):
    path = write(zip_bytes([("s/b.png", png(2)), ("s/a.png", png(1))]))
    pictures = read_pictures(path)
    assert [(p.file, int(p.pixels[0, 0, 0])) for p in pictures] == [(f"{path}/s/a.png", 1), (f"{path}/s/b.png", 2)]
    Image.open(io.BytesIO(png(1))).save(path.with_name("a.png"))
    assert pictures[0].sha256 == read_pictures(path.with_name("a.png"))[0].sha256
    assert [p.file for p in open_images(path)] == [p.file for p in pictures]


def test_a_zip_in_memory_gives_the_same_pictures(write):
    data = zip_bytes([("b.png", png(2)), ("s/a.png", png(1))])
    from_file, from_memory = list(open_images(write(data))), list(open_images(data))
    assert [(p.file, p.sha256) for p in from_memory] == [(p.file.partition(".zip/")[2], p.sha256) for p in from_file]
    assert [int(p.pixels[0, 0, 0]) for p in from_memory] == [2, 1]


def test_nothing_is_written_whatever_members_are_called(write, tmp_path, monkeypatch):
    names = ["../up.png", "/abs/olute.png", "..\\..\\back.png", "C:\\x.png", "a/../b.png"]
    path = write(zip_bytes([(name, png()) for name in names]))
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    assert len(read_pictures(path)) == len(names)
    assert list(empty.iterdir()) == [] and sorted(tmp_path.iterdir()) == [path, empty]


# What is refused


def test_a_zip_inside_is_refused_by_name_and_by_content(write):
    inner = zip_bytes([("x.png", png())])
    path = write(zip_bytes([("a.png", png()), ("inner.zip", inner), ("disguised.dcm", inner)]))
    names, problems = listed(path)
    assert (names, list(problems)) == (["a.png", "disguised.dcm"], ["inner.zip"])
    assert problems["inner.zip"].startswith("a zip inside a zip or folder is not opened; unpack it")
    with DecoderPool(1) as pool:
        (result,) = pool.pictures([Source(str(path), "disguised.dcm")])
    assert str(result).startswith(f"{path}/disguised.dcm: a zip inside a zip or folder is not opened")
    with pytest.raises(ImageError, match=r"a\.zip/inner\.zip: a zip inside"):
        read_pictures(path)


def test_an_office_document_is_no_archive_of_pictures(write):
    path = write(zip_bytes([("[Content_Types].xml", "<x/>"), ("word/media/image1.png", png())]))
    assert listed(path) == ([], {"": "an office document, not an archive of pictures; export its pictures"})


def test_an_archive_without_pictures_says_so(write):
    for data in (zip_bytes([("labels.csv", "a")]), zip_bytes([])):
        names, problems = listed(write(data))
        assert names == [] and problems[""].startswith("the zip archive holds no pictures; ")


def test_encrypted_members_are_refused(write):
    path = write(claim(zip_bytes([("a.png", png()), ("b.png", png())]), FLAGS, 1, "<H"))
    assert listed(path) == (["b.png"], {"a.png": "encrypted; unpack the archive with its password"})


def test_members_packed_by_another_method_are_refused(write):
    path = write(zip_bytes([("a.png", bytes(10**6))], zipfile.ZIP_BZIP2))
    assert "packed by a method that is not read" in listed(path)[1]["a.png"]
    with pytest.raises(ImageError, match="packed by a method"):
        read_source(Source(str(path), "a.png"))


def test_two_members_of_one_name_are_refused(write):
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = zip_bytes([("a.png", png(1)), ("b.png", png()), ("a.png", png(2))])
    assert listed(write(data)) == (["b.png"], {"a.png": "2 members of this name; pack the archive again"})


def test_a_member_that_claims_too_much_is_refused_before_it_is_read(write):
    path = write(claim(zip_bytes([("a.dcm", png()), ("b.png", png())]), UNPACKED, 2**30 + 1))
    names, problems = listed(path)
    assert names == ["b.png"]
    assert problems["a.dcm"].startswith(f"{2**30 + 1} bytes unpacked, more than the limit of {2**30}; ")
    with pytest.raises(ImageError, match="more than the limit"):
        read_source(Source(str(path), "a.dcm"))


def test_a_bomb_is_refused_by_its_ratio(write):
    path = write(zip_bytes([("a.dcm", bytes(40 * 2**20)), ("b.dcm", bytes(2**20))]))
    names, problems = listed(path)
    assert names == ["b.dcm"]  # small, and so harmless
    assert "more than 1000 to 1; unpack the archive" in problems["a.dcm"]


def test_members_that_are_too_much_together_are_refused(write, monkeypatch):
    monkeypatch.setattr(zips, "MAX_TOTAL_BYTES", 3 * len(png()))
    assert listed(write(zip_bytes([(f"{n}.png", png()) for n in range(3)]))) == (["0.png", "1.png", "2.png"], {})
    names, problems = listed(write(zip_bytes([(f"{n}.png", png()) for n in range(4)])))
    assert names == [] and problems[""].startswith("a zip archive of ")


def test_a_member_larger_than_it_claims_is_caught_while_it_is_read(write, monkeypatch):
    data = zip_bytes([("a.dcm", np.random.default_rng(0).bytes(1000) * 5000)])
    small = claim(data, UNPACKED, 2000)
    asked = []
    decompressor = zlib.decompressobj

    class Watched:
        def __init__(self, *args):
            self._inner = decompressor(*args)

        def __getattr__(self, name):
            return getattr(self._inner, name)

        def decompress(self, data, limit):
            asked.append(limit)
            return self._inner.decompress(data, limit)

    monkeypatch.setattr(zlib, "decompressobj", Watched)
    with pytest.raises(ImageError, match=r"a\.zip/a\.dcm: damaged inside the zip archive; copy or pack it again"):
        read_source(Source(str(write(small)), "a.dcm"))
    assert asked and max(asked) <= 4096  # zipfile's least piece
    with pytest.raises(ImageError, match="damaged inside"):
        read_source(Source(str(write(claim(data, UNPACKED, 5000 * 1000 + 7))), "a.dcm"))


def test_a_damaged_member_harms_no_other(write):
    data = bytearray(zip_bytes([("a.png", png(1)), ("b.png", png(2))], zipfile.ZIP_STORED))
    data[data.index(b"IDAT") + 6] ^= 0xFF
    path = write(bytes(data))
    with DecoderPool(1) as pool:
        first, second = pool.pictures(list_files([path]).files)
    assert str(first) == f"{path}/a.png: damaged inside the zip archive; copy or pack it again"
    assert second[0].pixels[0, 0, 0] == 2


def test_a_lie_about_where_a_member_lies_is_caught(write):
    data = zip_bytes([("a.png", png(1)), ("b.png", png(2))])
    for offset in (5, len(data) - 3, 2**31):
        with pytest.raises(ImageError, match="a.zip/a.png: damaged inside"):
            read_source(Source(str(write(claim(data, LOCAL_HEADER, offset))), "a.png"))


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_archive_is_a_problem_or_gives_whole_members(write, seed):
    """Bytes flipped anywhere, or the end cut off: never an exception, never pixels that are not the member's."""
    random = np.random.default_rng(seed)
    data = bytearray(zip_bytes([(f"{n}.png", png(n)) for n in range(1, 4)]))
    for place in random.integers(4, len(data), 1 + seed % 4):
        data[place] = random.integers(0, 256)
    path = write(bytes(data[: random.integers(4, len(data))] if seed % 3 == 0 else data))
    found = list_files([path])
    assert found.files or found.problems
    for source in found.files:
        try:
            member = read_source(source)
        except ImageError as error:
            assert error.file == source.name
        else:
            assert member in {png(n) for n in range(1, 4)}


def test_a_directory_that_is_too_large_is_not_read(write, monkeypatch):
    data = zip_bytes([(f"{n:0200}.png", b"x") for n in range(100)])
    path = write(data)
    assert len(listed(path)[0]) == 100
    monkeypatch.setattr(zips, "MAX_DIRECTORY_BYTES", 20_000)
    names, problems = listed(path)
    assert names == [] and problems[""] == "a zip archive with a directory of more than 20000 bytes; unpack it"


def test_many_members_are_read_in_time_that_grows_with_their_number(write, monkeypatch):
    opened = []
    real = zips.open_zip
    monkeypatch.setattr("medsiglip.imaging.source.open_zip", lambda *args: opened.append(1) or real(*args))
    path = write(zip_bytes([(f"{n}.png", png()) for n in range(50)]))
    for source in list_files([path]).files:
        read_source(source)
    assert len(opened) == 1  # its directory is read once
    os.utime(path, ns=(1, 1))
    read_source(source)
    assert len(opened) == 2  # and again when the file has changed
