"""Tars as other programs, and damage, leave them: what is whole is read, what is lost is said."""

import bz2
import gzip
import io
import lzma
import random
import tarfile

import pytest
from tiny_shards import sample_files, write_tar

from datamodules.shards.inspection import inspect_shards
from datamodules.shards.reader import ShardReader
from datamodules.shards.samples import BrokenSample
from datamodules.shards.tars import index_shard

KEYS = [f"{n:04d}" for n in range(6)]
DAMAGED = "damaged bytes in the shard"


def member(name, content=b"", kind=tarfile.REGTYPE, target="", **pax):
    """A tar's bytes of one file, without the end mark."""
    header = tarfile.TarInfo(name)
    header.size, header.type, header.linkname, header.pax_headers = len(content), kind, target, pax
    return header.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


def sample(key, number=0):
    return b"".join(member(f"{key}.{suffix}", content) for suffix, content in sample_files(number).items())


def with_size(name, size, content=b""):
    """A member whose header claims another size, with the right checksum."""
    block = bytearray(member(name))
    block[124:136] = (b"\xff" if size < 0 else b"\x80") + (size % 2**88).to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + content + bytes(-len(content) % 512)


def ended(content):
    return content + bytes(1024) + bytes(-(len(content) + 1024) % 10240)


GOOD = [sample(key, int(key)) for key in KEYS]


def indexed(path, *parts):
    path.write_bytes(ended(b"".join(parts)))
    return index_shard(path)


@pytest.mark.parametrize("place", [0, 3, 6], ids=["first", "between", "last"])
@pytest.mark.parametrize("size", [-1, -512, -(10**6), 2**33, 2**62, 2**87])
def test_a_size_that_cannot_be_costs_the_file_that_claims_it(tmp_path, place, size):
    index = indexed(tmp_path / "a.tar", *GOOD[:place], with_size("bad.png", size, bytes(700)), *GOOD[place:])
    # a size beyond the file's end, with nothing behind it, is what a truncated file looks like
    cut = place == 6 and size > 0
    assert index.keys == KEYS + ["bad"] * cut
    assert index.faults == (["truncated shard"] if cut else [DAMAGED])


@pytest.mark.parametrize("size", ["-1", "9" * 30, "9" * 5000, "one", ""])
def test_a_pax_size_that_cannot_be(tmp_path, size):
    index = indexed(tmp_path / "a.tar", *GOOD[:3], member("bad.png", b"x", size=size), *GOOD[3:])
    assert [key for key in index.keys if key != "bad"] == KEYS


def test_headers_before_headers_without_end(tmp_path):
    names = member("x", b"14 path=a.png\n", tarfile.XHDTYPE) * 3000 + member("x", b"b.png", tarfile.GNUTYPE_LONGNAME)
    assert indexed(tmp_path / "a.tar", *GOOD[:3], names, *GOOD[3:]).keys == [*KEYS[:3], "b", *KEYS[3:]]


def test_missing_and_foreign_bytes_cost_only_what_they_hit(tmp_path):
    content = ended(b"".join(GOOD))
    lengths = [len(each) for each in GOOD]
    path = tmp_path / "a.tar"
    path.write_bytes(content[: lengths[0] + 700] + content[lengths[0] + 777 :])
    assert index_shard(path).keys == KEYS
    assert index_shard(path).faults == [DAMAGED]
    path.write_bytes(content[: lengths[0]] + random.Random(0).randbytes(5000) + content[lengths[0] :])
    assert (index_shard(path).keys, index_shard(path).faults) == (KEYS, [DAMAGED])


def test_a_member_of_three_gibibytes_is_passed_over_or_not_whole(tmp_path):
    path, size = tmp_path / "a.tar", 3 << 30
    path.write_bytes(GOOD[0] + with_size("large.png", size))
    with path.open("r+b") as file:
        file.seek(len(GOOD[0]) + 512 + size)
        file.write(ended(sample("0002")))
    assert (len(index_shard(path)), index_shard(path).faults) == (3, [])
    assert ShardReader().read(path, 2)[1].keys() == {"png", "json"}
    with path.open("r+b") as file:
        file.truncate(size)
    with pytest.raises(BrokenSample, match="truncated shard"):
        ShardReader().read(path, 1)


@pytest.mark.parametrize(
    "companion",
    [
        "data/._0002.png",
        "data/.DS_Store",
        "__MACOSX/data/._0002.png",
        "__MACOSX/data/0002.png",
        "data/Thumbs.db",
        "._a.png",
    ],
)
def test_what_file_managers_leave_is_no_sample_and_tears_none(tmp_path, companion):
    first, second = (member(f"data/0002.{suffix}", content) for suffix, content in sample_files(2).items())
    index = indexed(tmp_path / "a.tar", first, member(companion, b"\0\5\x16\7"), second)
    assert (index.keys, len(index.members(0)), index.faults) == (["data/0002"], 2, [])


def test_hidden_tars_of_a_folder_are_passed_over(tmp_path):
    indexed(tmp_path / "a.tar", *GOOD)
    (tmp_path / "._a.tar").write_bytes(b"\0\5\x16\7")
    assert inspect_shards(str(tmp_path)).facts["broken"] == {}


@pytest.mark.parametrize("place", [0, 3])
def test_a_global_header_is_no_damage(tmp_path, place):
    comment = member("pax_global_header", b"15 comment=abc\n", tarfile.XGLTYPE)
    index = indexed(tmp_path / "a.tar", *GOOD[:place], comment, *GOOD[place:])
    assert (index.keys, index.faults) == (KEYS, [])


def test_a_hard_link_is_the_earlier_file(tmp_path):
    picture, record = sample_files(0)["png"], sample_files(1)["json"]
    again = member("0001.png", kind=tarfile.LNKTYPE, target="0000.png"), member("0001.json", record)
    assert indexed(tmp_path / "a.tar", GOOD[0], *again).faults == []
    assert ShardReader().read(tmp_path / "a.tar", 1) == ("0001", {"png": picture, "json": record})


def test_symbolic_links_are_said_to_be_links(tmp_path, data):
    links = [member(f"{key}.{end}", kind=tarfile.SYMTYPE, target="../x") for key in KEYS for end in ("png", "json")]
    assert len(indexed(tmp_path / "a.tar", *links)) == 0
    with pytest.raises(ValueError, match=r"no sample in .*a.tar \(6 links, not files; tar with -h\)"):
        data(train=tmp_path / "a.tar")
    assert inspect_shards(str(tmp_path)).facts["broken"] == {"6 links, not files; tar with -h": 6}


def test_names_with_further_dots_are_said(tmp_path, data):
    files = {f"photo v1.{key}": sample_files(int(key)) for key in KEYS}
    assert len(index_shard(write_tar(tmp_path / "a.tar", files))) == 1
    with pytest.raises(ValueError, match="6 of 7 samples are lost.*further dots, a key ends at the first; rename them"):
        data(train=tmp_path / "a.tar")
    # files beside the picture of their sample are as webdataset means them
    parts = {key: sample_files(int(key)) | {"mask.png": b"x", "left.json": b"{}"} for key in KEYS}
    assert index_shard(write_tar(tmp_path / "b.tar", parts)).faults == []


def test_files_of_one_key_that_lie_apart_are_said(tmp_path, data):
    apart = [member(f"{key}.{end}", sample_files(int(key))[end]) for end in ("png", "json") for key in KEYS]
    indexed(tmp_path / "a.tar", *apart)
    with pytest.raises(ValueError, match="6 of 18 samples are lost.*files of one key lie apart; tar --sort=name"):
        data(train=tmp_path / "a.tar")


@pytest.mark.parametrize("end", [lambda content: content + bytes(1024), ended], ids=["two blocks", "a record"])
def test_tars_one_behind_the_other_are_read_as_one(tmp_path, end):
    other = b"".join(sample(f"k{n}", n) for n in range(6))
    (tmp_path / "a.tar").write_bytes(end(b"".join(GOOD)) + end(other) + end(b"".join(GOOD)))
    index = index_shard(tmp_path / "a.tar")
    assert (index.keys, index.faults) == ([*KEYS, *(f"k{n}" for n in range(6)), *KEYS], [])


def test_more_zeros_than_a_record_at_the_end_were_something_once(tmp_path):
    path, content = tmp_path / "a.tar", b"".join(GOOD)
    for size, faults in ((65536, []), (1 << 20, []), (30720, [DAMAGED]), (71680, [DAMAGED])):
        path.write_bytes(content.ljust(len(content) + 1024 + -(len(content) + 1024) % size, b"\0"))
        assert path.stat().st_size % size == 0
        assert (index_shard(path).keys, index_shard(path).faults) == (KEYS, faults)


@pytest.mark.parametrize(
    ("pack", "name"), [(gzip.compress, "gzip"), (bz2.compress, "bzip2"), (lzma.compress, "xz")], ids=["gz", "bz2", "xz"]
)
def test_a_compressed_tar_is_said_to_be_compressed(tmp_path, data, pack, name):
    (tmp_path / "a.tar").write_bytes(pack(ended(b"".join(GOOD))))
    with pytest.raises(ValueError, match=rf"no sample in .*a.tar \({name} file; unpack it\)"):
        data(train=tmp_path / "a.tar")


def test_names_that_are_not_utf_8_can_be_written_everywhere(tmp_path, data):
    folder = tmp_path / "caf\udce9"  # a folder's name in Latin-1
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        for number in range(4):
            for suffix, content in sample_files(number).items():
                header = tarfile.TarInfo(f"caf\xe9{number}.{suffix}")
                header.size = len(content)
                tar.addfile(
                    header, io.BytesIO(content if suffix == "json" or number != 2 else b"junk!"[:5].ljust(header.size))
                )
    assert index_shard(folder / "a.tar").keys[0] == r"caf\xe90"
    module = data("test", test=folder, max_skip_rate=1.0)
    for batch in module.test_dataloader():
        module.evaluated(batch)
    module.account.write(tmp_path / "skipped.json")
    assert r"caf\udce9/a.tar" in (tmp_path / "skipped.json").read_text(encoding="utf-8")
    assert inspect_shards(str(folder)).facts["broken"] == {"broken image": 1}
