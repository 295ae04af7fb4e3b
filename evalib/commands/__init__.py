"""What the commands of the command line do and say; `evalib.cli` has their words.

torch and its friends are imported by the functions, so that `--help` answers at once.
"""

from evalib.commands.app import app as app
from evalib.commands.export import export as export
from evalib.commands.inventory import data as data
from evalib.commands.inventory import doctor as doctor
from evalib.commands.predict import predict as predict
from evalib.commands.ranking import rank as rank
from evalib.commands.report import report as report
from evalib.commands.trained import cam as cam
from evalib.commands.trained import evaluate as evaluate
from evalib.commands.training import train as train
