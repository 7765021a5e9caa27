from tests.benchmarks.stand_ins.parts import Decoder, Encoder

__all__ = ["Decoder", "Encoder"]
