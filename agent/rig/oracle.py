"""What the judge found beside the journal: the verdict as a whole, and both Kintos compared.

What the judge demands
----------------------
A package is *committed* once it is in the agent's spool; before that it is bytes on a line, and
dies with whoever has read them. So a kill -9 of the agent may cost packages that were sent and not
yet committed, and nothing else. At each kill the station copies the dead agent's spool and looks up
the last package in it. Excused are then exactly the packages that the satellite had sent (its
journal says which) *after* that one up to the kill, and the one on the line at that moment. The
agent reads and commits within milliseconds, so that is none or one; `Judgement.excused` says how
many were really missing, and the tests bound it. Nothing else is excused by a kill, least of all a
package that the spool had.

A satellite's own faults (garbage, half packages, a pulled cable) are in its journal: each package
must be stored, must not be stored, or was on the line when the cable was pulled.

Beyond the journal, and independent of it, both Kintos must hold the same records with the same
content, and of each of the agent's epochs every seq from 1 up to the last one exactly once: a
record that was committed and vanished leaves a gap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rig.judge import Record, Verdict

_BY_THE_SERVER = {"last_modified", "schema"}


class OracleError(AssertionError):
    """What arrived is not what was sent."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The journal's verdict and what was found beside it.

    Attributes:
        verdict: the comparison with the journal.
        excused: packages that were missing and were not committed when the agent was killed.
        problems: a sentence for everything else that is wrong.
    """

    verdict: Verdict
    excused: int
    problems: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether nothing is lost, doubled, changed or left over."""
        return self.verdict.good and not self.problems

    def insist(self) -> None:
        """Raises an OracleError where it is not good."""
        if not self.good:
            reasons = [self.verdict.reason(), *self.problems]
            raise OracleError(f"{self.verdict}: " + "; ".join(filter(None, reasons)))


def unequal(local: Sequence[Record], hub: Sequence[Record]) -> Iterator[str]:
    """Records that only one has, or that differ, in their times as well."""
    kept: list[dict[str, Record]] = [
        {r["id"]: {k: v for k, v in r.items() if k not in _BY_THE_SERVER} for r in records}
        for records in (local, hub)
    ]
    for name, only in (
        ("locally", kept[0].keys() - kept[1].keys()),
        ("on the hub", kept[1].keys() - kept[0].keys()),
    ):
        if only:
            yield f"{len(only)} records are only {name}"
    different = [name for name in kept[0].keys() & kept[1].keys() if kept[0][name] != kept[1][name]]
    if different:
        name = different[0]
        yield f"{len(different)} differ, as {kept[0][name]} and {kept[1][name]}"


def gaps(local: Sequence[Record], hub: Sequence[Record]) -> Iterator[str]:
    """Seqs that are missing below the highest of their epoch, or are there twice."""
    for place, records in (("local", local), ("hub", hub)):
        counts = Counter((r["epoch"], r["seq"]) for r in records)
        for epoch in {epoch for epoch, _ in counts}:
            have = [seq for name, seq in counts if name == epoch]
            absent = sorted(set(range(1, max(have) + 1)) - set(have))
            if absent:
                yield f"{place}: seqs {absent[:5]} of {len(absent)} are missing"
        twice = [key for key, count in counts.items() if count > 1]
        if twice:
            yield f"{place}: {len(twice)} seqs are there twice, as {twice[0]}"
