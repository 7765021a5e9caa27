from tests.benchmarks.stand_ins import parts


class LPIPS(parts.LPIPS):
    """The one whose loading of weights the benchmarks replace."""
