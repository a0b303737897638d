"""One thread for every test: bits do not depend on the machine's cores, and two processes share two of them."""

import torch

torch.set_num_threads(1)
