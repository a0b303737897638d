"""Every error of the project, each once: what was got, what is allowed, what to do.

A function per situation builds the exception, so that a message has one home and one test. There is a file per room.
The classes are what a caller catches; all derive from ``EchoembedError``.
"""

from echoembed.errors.base import *
from echoembed.errors.corpus import *
from echoembed.errors.evaluation import *
from echoembed.errors.gguf import *
from echoembed.errors.models import *
from echoembed.errors.prompts import *
from echoembed.errors.server import *
from echoembed.errors.sources import *
from echoembed.errors.texts import *
from echoembed.errors.training import *
