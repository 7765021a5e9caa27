"""Pictures and codes as shards: packing, indexing, order, streaming. Knows no model.

A shard is an ordinary WebDataset tar; an index, a JSON file that wids reads too, names a set of them. Samples are
`KEY.jpg` (or png, webp, …), `KEY.cls`, `KEY.txt`; codes are `KEY.codes.npy`, uint16 or uint32.

Commands:

    python -m data.pack PICTURES OUT --kind folder --held_out 0.05     any source to shards; resumes after any kill
    python -m data.index 'shards/{000..127}.tar' index.json            an index for existing tars
    python -m data.inspect INDEX --verify true --contact_sheet S.png   what a set holds, and whether all of it decodes
    python -m data.simulate --shards 100000 --ranks 4096               how an order behaves, without data

Rooms:

    order        which samples make up a step: a function of index, seed, global batch and step alone
    remote       shards behind a URL, and their cache
    shards       the format on disk
    pictures     decoding, augmentation, conversion and checks of pictures
    codes        grids of token ids as samples
    reading      batches, read and decoded ahead of training
    packing      sources to shards
    inspecting   checks and contact sheets
    samples      small sets that ship with the project

`config` has the settings of a run's data; `media` lists the kinds of samples and the rooms that handle them.

    from data.config import DataConfig
    from data.reading.stream import Stream, every_sample

    config = DataConfig(index="data/samples/mnist/train.json", batch_size=64)
    with Stream(config, seed=0, rank=0, world_size=1) as pictures:
        for batch in pictures.batches(start=0):                        # endless: epoch after epoch
            batch.pixels_BCHW, batch.label_B, batch.keys               # uint8, int64 (-1: none)
    every_sample("data/samples/mnist/held_out.json", config.transform, batch_size=64)   # each one once, in order

`docs/data.md` has the tasks.
"""
