"""Pictures and codes as shards: packing, indexing, order, streaming. Nothing here knows a model.

A shard is an ordinary WebDataset tar, a set of them is named by an index, a JSON file that wids reads too:

    python -m data.pack PICTURES OUT --kind folder --held_out 0.05     any source to shards; resumed after any kill
    python -m data.index 'shards/{000..127}.tar' index.json            an index for tars that are there
    python -m data.inspect INDEX --verify true --contact_sheet S.png   what is in it, and whether all of it decodes
    python -m data.simulate --shards 100000 --ranks 4096               how an order would go, without data

Samples are `KEY.jpg` (or png, webp, …), `KEY.cls`, `KEY.txt`; codes are `KEY.codes.npy`, uint16 or uint32.

Which samples make up the batch of a step is a function of index, seed and global batch alone (`data.order`), whatever
the number of ranks and threads. So a run resumes exactly, mid-epoch, on any layout; a checkpoint needs the step only:

    from data.config import DataConfig
    from data.reading.stream import PictureStream, every_sample

    config = DataConfig(index="data/samples/mnist/train.json", batch_size=64)
    with PictureStream(config, seed=0, rank=0, world_size=1) as pictures:
        for batch in pictures.batches(start=0):                        # endless: epoch after epoch
            batch.pixels_BCHW, batch.label_B, batch.keys               # uint8, int64 (-1: none)
    every_sample("data/samples/mnist/held_out.json", config.transform, batch_size=64)   # each one once, in order

Local shards are read at byte offsets; shards behind https, s3 or gs are streamed, or copied into `data.cache`. A sample
that can't be decoded is replaced and counted; above `data.max_damaged` the run stops and names the shards.
`data.mixture` draws from several indexes by weight. `data.transforms` crops and flips by a sample's own seed, and its
settings travel with the released tokenizer.
"""
