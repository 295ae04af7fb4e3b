"""Datasets: CIFAR-10, a sample of it, Stanford Cars, shapes, folders, Hugging Face; loaders that feed a network."""

from evalib.data.cifar10 import cifar10 as cifar10
from evalib.data.folder import image_folder as image_folder
from evalib.data.hugging_face import hugging_face as hugging_face
from evalib.data.image_data import ImageData as ImageData
from evalib.data.image_data import Split as Split
from evalib.data.sample import sample as sample
from evalib.data.shapes import shapes as shapes
from evalib.data.stanford_cars import stanford_cars as stanford_cars
