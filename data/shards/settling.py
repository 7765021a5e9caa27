"""Settles how a set's tars are read: which members are the samples, what the labels mean, and what is left out.

The samples are of the kind `kind`. The rule is chosen for the whole set, from all scans, so that a sample whose picture
is missing is left out instead of having its mask taken for the picture.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from data.shards.layout import NO_PICTURE, Layout, about_the_set, by_preference, is_picture, picture_among
from data.shards.runs import Scan
from data.shards.sample import is_number, label_text
from data.shards.signature import PICTURES, SOUNDS, TEXTS, VIDEOS
from data.shards.tally import Tally
from launch.command.cli import UserError

_STRAY = 0.1
"""Words among so many times as many numbers are mistakes, not names."""
Form = tuple[str, ...]
ORDER = {"pictures": PICTURES, "sounds": SOUNDS, "texts": TEXTS, "videos": VIDEOS}
"""Extensions by kind of sample, the preferred one first."""
Seen = tuple[Counter[Form], dict[Form, str], dict[str, str]]


def settled(
    scans: Sequence[Scan],
    layout: Layout,
    classes: Sequence[str],
    where: str = "these tars",
    kind: str = "pictures",
) -> tuple[Layout, list[str], Tally]:
    """The layout with the samples' extensions and the meaning of labels, the classes, and what is taken and left out.

    `layout` has the user's settings; its `picture`, if any, is kept. Without `classes`, labels that are words become
    classes in alphabetical order. UserError where there are no samples, or names don't tell which members they are.
    """
    seen = forms, examples, formats = _seen(scans)
    layout = replace(
        layout, picture=_members(forms, examples, formats, layout, kind), pieces=any(s.pieces for s in scans)
    )
    if not layout.picture or not any(layout.is_sample(form) for form in forms):
        raise _nothing(forms, layout, sum((scan.tally for scan in scans), Tally()), where, kind)
    tally = _told(scans, seen, layout, kind)
    labels = Counter[str]()
    for scan in scans:
        for contents, count in scan.labels.items():
            labels[label_text(contents)] += count
    names, by_name = _classes(labels, classes, tally)
    return (replace(layout, labels="names") if by_name else layout), names, tally


def told(scans: Sequence[Scan], layout: Layout, kind: str) -> Tally:
    """What is taken and what is left out of some archives of pictures or sounds under a layout."""
    return _told(scans, _seen(scans), layout, kind)


def _told(scans: Sequence[Scan], seen: Seen, layout: Layout, kind: str) -> Tally:
    forms, examples, formats = seen
    tally = sum((scan.tally for scan in scans), Tally())
    for note in (note for scan in scans for note in scan.notes):
        tally.noted(note, "")
    _tell_members(forms, examples, formats, layout, kind, tally)
    for key in (key for scan in scans for key in scan.apart):
        tally.noted("members that are not side by side: they are read in pieces, which is slow; "
                    "`python -m data.pack --kind tars` puts them together", key)  # fmt: skip
    _tell_lost(scans, layout, formats, kind, tally)
    for what in ("labels", "captions"):
        if without := tally.taken[kind] - tally.taken[what] if tally.taken[what] else 0:
            form = next(f for f in forms if layout.is_sample(f) and {"labels": "cls", "captions": "txt"}[what] not in f)
            tally.noted(f"{kind} without {what}", examples[form], count=without)
    return tally


def _seen(scans: Sequence[Scan]) -> Seen:
    """How often each form occurs, a key of each, and the formats found in members without a usual extension."""
    forms, examples = Counter[Form](), dict[Form, str]()
    for scan in scans:
        forms.update(scan.forms)
        for form in set(scan.forms) - examples.keys():
            examples[form] = scan.keys[scan.forms.index(form)]
    return forms, examples, {extension: found for scan in scans for extension, found in scan.formats.items()}


def _members(
    forms: Counter[Form], examples: dict[Form, str], formats: dict[str, str], layout: Layout, kind: str
) -> Form:
    """The extensions that a sample may have, the preferred one first."""
    if layout.picture:
        return layout.picture
    there = {extension for form in forms for extension in form if _shows(extension, formats, kind)}
    plain = by_preference((extension for extension in there if "." not in extension), ORDER[kind])
    if plain:
        return tuple(extension for i, extension in enumerate(plain) if not _beside(extension, plain[:i], forms))
    if len({extension.rpartition(".")[0] for extension in there}) < 2:
        return tuple(by_preference(there, ORDER[kind]))
    ordered = by_preference(there, ORDER[kind])
    crowded = next((form for form in forms if sum(extension in there for extension in form) > 1), None)
    where = f"sample {examples[crowded]}" if crowded else "the set"
    listed = [extension for extension in crowded if extension in there] if crowded else ordered
    raise UserError(
        f"{where} holds {len(listed)} {kind}, none with a plain extension ({_few(listed)}): if the names themselves "
        f"have dots, set keys=last_dot; else name the {kind[:-1]}'s extension with picture, such as "
        f"picture={ordered[0]}"
    )


def _beside(extension: str, preferred: list[str], forms: Counter[Form]) -> bool:
    """Whether most members of this extension are beside a preferred picture: then they are masks, say, also alone."""
    alone = beside = 0
    for form, count in forms.items():
        if extension in form:
            with_other = any(other in form for other in preferred)
            beside, alone = beside + count * with_other, alone + count * (not with_other)
    return beside > alone


def _shows(extension: str, formats: dict[str, str], kind: str) -> bool:
    """Whether members of this extension are samples that can be read, by their name or (pictures) first bytes."""
    if kind != "pictures":
        return _called(extension, kind)
    return not extension.startswith(NO_PICTURE) and (is_picture(extension) or extension in formats)


def _called(extension: str, kind: str) -> bool:
    """Whether a member of this extension is called a sample of a kind."""
    return extension.rpartition(".")[2] in ORDER[kind]


def _nothing(forms: Counter[Form], layout: Layout, tally: Tally, where: str, kind: str) -> UserError:
    there = Counter[str]()
    for form, count in forms.items():
        there.update({extension.lstrip(NO_PICTURE) or "none": count for extension in form})
    listed = ", ".join(f"{count} {extension}" for extension, count in there.most_common(8)) or "none"
    wanted = f" with the extension {', '.join(layout.picture)}" if layout.picture else ""
    lost = "".join(f"; {line}" for line in tally.lines()[1:])
    for other in ("sounds", "videos") if kind == "pictures" else ():
        if any(_called(extension, other) for form in forms for extension in form):
            lost += f"; for {other}: `python -m data.index` with --media {other}"
    return UserError(f"no samples: no {kind}{wanted} in {where}; extensions there: {listed}{lost}")


def _tell_members(
    forms: Counter[Form], examples: dict[Form, str], formats: dict[str, str], layout: Layout, kind: str, tally: Tally
) -> None:
    """Count what samples hold, and note samples with several members that could be the picture or sound."""
    for form, count in forms.items():
        if not layout.is_sample(form):
            continue
        key, chosen = examples[form], _chosen(form, layout)
        tally.took(kind, count)
        tally.took("labels", count * ("cls" in form))
        tally.took("captions", count * ("txt" in form))
        several = by_preference((e for e in form if _shows(e, formats, kind)), ORDER[kind])
        if len(several) > 1 and chosen:
            tally.noted(f"samples with several {kind} ({_few(several)}), of which {chosen} is taken: "
                        "set `picture` to take another", key, count=count)  # fmt: skip
        if len(set(form)) < len(form):
            tally.noted("samples with two members of one name, of which the last is taken", key, count=count)
        dotted = (chosen or "").rpartition(".")[0]
        for what, end in (("labels", "cls"), ("captions", "txt")) if dotted else ():
            if f"{dotted}.{end}" in form and end not in form:
                tally.left_out(f"{what} called .{dotted}.{end} (if names have dots, set keys=last_dot)",
                               f"{key}.{dotted}.{end}", of=what, count=count)  # fmt: skip
        for extension in sorted({*form} - {chosen or "", "cls", "txt", *several}):
            tally.ignored("members that are not read", f"{key}.{extension.lstrip(NO_PICTURE)}", count=count)


def _chosen(form: Form, layout: Layout) -> str | None:
    try:
        return picture_among(form, layout)
    except ValueError:
        return None


def _tell_lost(scans: Sequence[Scan], layout: Layout, formats: dict[str, str], kind: str, tally: Tally) -> None:
    """Count the runs without a picture or sound, by reason."""
    lost = {form for scan in scans for form in set(scan.forms) if not layout.is_sample(form)}
    if not lost:
        return
    present = {key for scan in scans for key in scan.samples(layout).keys}
    for scan in scans:
        for run, form in enumerate(scan.forms):
            if form in lost and run not in scan.told:
                _tell_run(scan.keys[run], form, present, layout, formats, kind, tally)


def _tell_run(
    key: str, form: Form, present: set[str], layout: Layout, formats: dict[str, str], kind: str, tally: Tally
) -> None:
    """Count one run without a picture or sound."""
    shown = form[0].lstrip(NO_PICTURE)
    name = f"{key}.{shown}" if shown else key
    undecoded = next((formats[e] for e in form if e.startswith(NO_PICTURE) and e in formats), None)
    others = [extension for extension in form if _called(extension, kind)]
    one = kind[:-1]
    if undecoded and kind == "pictures":
        tally.left_out(f"{undecoded} pictures can't be decoded", name)
    elif others:
        tally.left_out(f"no {one} called {' or '.join(layout.picture[:3])} (if names have dots, set keys=last_dot)",
                       f"{key}.{others[0]}", of=kind, count=len(others))  # fmt: skip
    elif key in present and {*form} & {"cls", "txt"}:
        tally.left_out(f"in another tar than the {one}", name, of="labels" if "cls" in form else "captions")
    elif about_the_set(key):
        tally.ignored("files about the set", name)
    else:
        tally.left_out(f"no {one}", name, of=kind)


def _classes(labels: Counter[str], classes: Sequence[str], tally: Tally) -> tuple[list[str], bool]:
    """The classes, and whether labels are their names. What is neither a number nor a name of one is left out."""
    numbers = {text for text in labels if is_number(text)}
    words = {*labels} - numbers - {""}
    count = {kind: sum(labels[text] for text in texts) for kind, texts in (("numbers", numbers), ("words", words))}
    by_name = count["words"] > _STRAY * count["numbers"]
    names = list(classes) or (sorted(words | numbers) if by_name else [])
    if by_name and not classes:
        tally.noted(f"labels are words: they make {len(names)} classes in alphabetical order", _few(names))
    elif numbers and not classes:
        tally.noted("labels are numbers, without names of classes, which a prior on classes needs: "
                    "`python -m data.index … --classes FILE`",
                    f"{min(map(int, numbers))} to {max(map(int, numbers))}", count=count["numbers"])  # fmt: skip
    for text in sorted(labels):
        in_range = text in numbers and 0 <= int(text) < (len(names) or int(text) + 1)
        if not (text in names if by_name else in_range):
            tally.left_out("labels that are none of the classes", repr(text)[:40], of="labels", count=labels[text])
            tally.taken["labels"] -= min(labels[text], tally.taken["labels"])
    return names, by_name


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f", … ({len(names)})" if len(names) > 4 else "")
