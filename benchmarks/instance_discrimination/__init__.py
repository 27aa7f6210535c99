"""Instance discrimination (Wu, Xiong, Yu, Lin. CVPR 2018), with its studies: `python -m benchmarks.instance_discrimination --help`."""
