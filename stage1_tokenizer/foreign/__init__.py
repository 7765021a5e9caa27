"""Published tokenizers' checkpoints in our names and settings. To add a layout: its file and an entry here."""

from stage1_tokenizer.foreign import cosmos, dac, diffusers_vq, emu3, encodec, magvit, taming, wavtokenizer
from stage1_tokenizer.foreign.base import Layout

LAYOUTS: dict[str, Layout] = {
    "diffusers": Layout(diffusers_vq.diffusers, "encoder.down_blocks.0.resnets.0.conv1.weight"),
    "llamagen": Layout(taming.llamagen, "encoder.conv_blocks.0.res.0.conv1.weight"),
    "var": Layout(taming.var, "encoder.mid.attn_1.qkv.weight"),
    "simvq": Layout(magvit.simvq, "quantize.embedding_proj.weight"),
    "open_magvit2_video": Layout(magvit.open_magvit2_video, "encoder.conv_in.conv_1.weight"),
    "open_magvit2": Layout(magvit.open_magvit2, "decoder.adaptive.0.gamma.weight"),
    "maskgit": Layout(magvit.maskgit, "decoder.up.1.upsample_conv.weight"),
    "emu3": Layout(emu3.emu3, "encoder.time_conv.0.conv.conv.weight"),
    "taming": Layout(taming.taming, "encoder.down.0.block.0.conv1.weight"),
    "ibq": Layout(taming.ibq),
    "dac": Layout(dac.dac, "quantizer.quantizers.0.codebook.weight"),
    "encodec": Layout(encodec.encodec, "quantizer.layers.0.codebook.embed"),
    "mimi": Layout(encodec.mimi, "quantizer.semantic_residual_vector_quantizer.input_proj.weight"),
    "cosmos": Layout(cosmos.cosmos, "encoder.conv_in.0.conv3d.weight"),
    "wavtokenizer": Layout(wavtokenizer.wavtokenizer, "backbone.pos_net.0.norm1.weight"),
}
"""Every layout by the name of its project, in the order in which they are recognised."""
