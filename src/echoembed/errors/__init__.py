"""Every error of the project, each once: what was got, what is allowed, what to do.

A function per situation builds the exception, so that a message has one home and one test.
The classes are what a caller catches; all derive from ``EchoembedError``.
"""

from echoembed.errors.base import *
from echoembed.errors.corpus import *
from echoembed.errors.evaluations import *
from echoembed.errors.files import *
from echoembed.errors.gguf import *
from echoembed.errors.libraries import *
from echoembed.errors.models import *
from echoembed.errors.prompts import *
from echoembed.errors.server import *
from echoembed.errors.sources import *
from echoembed.errors.training import *
from echoembed.errors.training_output import *
from echoembed.errors.training_run import *
