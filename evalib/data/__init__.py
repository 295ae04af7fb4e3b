"""Datasets: CIFAR-10, the sample shipped in the package, folders of images, and the loaders that feed a network."""

from evalib.data.cifar10 import cifar10 as cifar10
from evalib.data.folder import image_folder as image_folder
from evalib.data.image_data import ImageData as ImageData
from evalib.data.image_data import Split as Split
from evalib.data.sample import sample as sample
