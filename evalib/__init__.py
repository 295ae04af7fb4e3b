"""Train an image classifier, see where it errs, and see why, with class activation maps.

The modules, from the bottom up; each imports only from levels below its own. Nothing is imported here; `load`,
`doctor` and a few more are loaded when they are asked for:

    level 0   evalib.progress     progress bars for terminals and notebooks
              evalib.time_estimate  how long a training will take, after its first seconds
              evalib.tables       tables as values, for terminals and notebooks
              evalib.interrupts   Ctrl-C as a request: work ends where nothing is half done
              evalib.files        files that are whole or not there
              evalib.run_lock     one writer for a run directory
              evalib.saver        checkpoints written beside the training
              evalib.file_lock    one process at a time at a file
              evalib.copying      copies that are compared, calls that may never return
              evalib.remote_images  one image by its http(s) address, within limits of size and time
              evalib.mirror       a second place for a run, as a mounted drive
              evalib.checkup      what is wrong with a machine, in one line each
              evalib.metrics      means, accuracy, confusion matrix, accuracy per class
              evalib.runtime      devices, seeds, evaluation mode, memory of a CPU, doctor()
              evalib.recipes      Recipe: all settings of a training run; the named recipes
              evalib.origin       where a dataset came from, as plain values
              evalib.download     files from mirrors, checked and resumed
              evalib.archives     tar and zip archives, unpacked into their folder and nowhere else
              evalib.weights      files of weights, also those of other projects
              evalib.cam_networks AlexNetCAM and VGG19CAM, ImageNet weights, freezing
              evalib.imagenet_networks  torchvision's ResNet18, learned on ImageNet, for other classes
              evalib.models       resnet18 to resnet152 for small images, models by name, summary()
              evalib.muon         MuonSGD: orthogonal updates for convolution filters, SGD for the rest
              evalib.averaging    Lookahead: weights drawn back to their moving average
    level 1   evalib.transforms   geometry, augmentations by name, normalize and denormalize
              evalib.batch_augment  the augmentations as operations on whole batches
              evalib.checkpoint   weights to a file and back, whole or not at all
              evalib.cam_maps     what all methods share: checks, and maps made comparable
              evalib.layouts      how a layer's output holds a map: channels first, channels last, tokens
              evalib.layer_trace  the modules of a network in one forward pass, and which may be explained
              evalib.layer_search  layers worth a map in any network, found by one forward pass
              evalib.cam_layers   the layers of a network that are worth a map, and their names
              evalib.cam_pass     one forward pass and one gradient for all layers; the methods made from them
              evalib.cam          classic_cam() and grad_cam(): the evidence for a class, for every layer
              evalib.cam_masks    Score-CAM and Ablation-CAM: the network asked once per channel
              evalib.cam_others   the other methods of the package grad-cam, without its side effects
              evalib.imputation   removed pixels filled in from those around them
              evalib.explain      explain(): every method, all layers, a batch or a whole loader
              evalib.history      History: what a training run measured, epoch by epoch
    level 2   evalib.data         ImageData; cifar10(), stanford_cars(), image_folder(), hugging_face(), sample()
              evalib.optim        optimizer, schedule and penalty terms of a recipe
              evalib.initialization  a whitening first convolution, residual blocks that begin as the identity
              evalib.execution    device and precision of a run: the seam for more than one device
              evalib.distributed  several processes that train together, under torchrun or `accelerate launch`
              evalib.rundir       the folder of a run: recipe, history, last checkpoint
              evalib.trained      a trained network from a run, a checkpoint, or weights of another project
              evalib.evaluation   evaluate(): loss, accuracy and logits over a set of images
              evalib.training_step  one step on a batch, and what can go wrong in it
              evalib.epoch        every batch once, with a state to go on from in the middle
              evalib.training_run  the moving parts of a run, and the state that it goes on from
              evalib.engine       train_one_epoch() and fit()
    level 3   evalib.scores       figures about maps, image by image, and tables of them
              evalib.perturbation  images changed in the order of their maps, and what the network says of them
              evalib.mistakes     the misclassified images
              evalib.neighbors    the training images that a network finds most like a given one
              evalib.mistake_groups  mistakes by kind: suspect labels, confident ones, near ties; confused pairs
              evalib.contrast     why one class and not another: maps of both on one scale, and their difference
              evalib.contrast_check  whether the network decides otherwise without the places that spoke for its mistake
              evalib.car_errors   mistakes about cars by brand, model, type and year
              evalib.comparison   several runs in one table, made from their logs
              evalib.ladder       runs that each change the recipe of an earlier one
              evalib.localization where maps point, beside boxes and masks of the object
              evalib.faithfulness what the network loses without the pixels that a map marks
              evalib.map_likeness  rank correlation and structural similarity of two maps
              evalib.map_makers   map_maker(): a method at a layer; maps batch by batch
              evalib.randomization  maps of a network whose layers become random, one after the other
              evalib.broken_maps  maps that are worth nothing: what the checks must say so of
              evalib.sanity       check_maps(): do maps depend on class and weights, and beat noise?
              evalib.ranking      rank_maps(): methods times layers, the best one, and why
              evalib.prediction   the classes of image files, or why there are none
              evalib.export_formats  files of ONNX and torch.export: written, and run again
              evalib.export       export(): a network as a file for other programs, compared after writing
              evalib.figures      what the figures share
              evalib.curves       learning curves, also while a run trains
              evalib.cam_plots    heat tables of a ranking, removal curves, grids of maps
              evalib.input_plots  batches as a loader yields them
              evalib.mistake_plots  contrasts, groups of mistakes, nearest training images
              evalib.mistake_story  plot_mistake(): all about one mistake in one figure
              evalib.plots        every other figure, as a value
              evalib.image_prediction  what a network says of one image, with its map, as a value
              evalib.classifier   load(): a trained classifier; predict() of any image, address, array or folder
              evalib.own_folder   a folder of images from a path, a zip file, or an upload in Colab
              evalib.own_recipe   choose_recipe(): a recipe for images of one's own, with reasons
              evalib.calibration  how sure a network is, and how often it is right then
              evalib.significance  intervals of a fraction, McNemar's test of two networks
              evalib.exercises    tasks for students, and checks of their answers
              evalib.map_exercises  the same about maps: best layer, a map blind to the class, CAM by hand
              evalib.html_parts   pieces of an HTML page that cannot hold foreign markup
              evalib.html_tested  what a network says of its test images, as a report tells it
              evalib.html_facts   what a report says of a run, read from its directory
              evalib.html_scores  what the maps of a report are worth, layer by layer
              evalib.html_mistakes  which mistakes a report shows, and their maps
              evalib.html_images  photographs and maps as text
              evalib.html_charts  charts as SVG in the page
              evalib.html_tables  sections, tables and figures of a page
              evalib.html_sections  result, curves, recipe and environment of a run
              evalib.html_classes  confusion matrix, class by class, calibration, cars
              evalib.html_compare  sections that compare runs: results, recipes, curves, the same images
              evalib.html_cards   the card of a mistake
              evalib.html_gallery  the gallery of mistakes, the worth of their maps
    level 4   evalib.report       the figures of a run, in one call; the explanation of one image
              evalib.html_report  write_report(): one HTML file about a run, or that compares several
              evalib.app_state    the page of a run without its widgets: maps of a choice, mistakes
              evalib.app_parts    what the page shows, as HTML
              evalib.app_tabs     the widgets of the page, and what happens when one is used
              evalib.app          open_app(): a page to explore a run
              evalib.own_images   train_folder(): your own images, to a trained and explained network
              evalib.commands     what the commands of the command line do and say
              evalib.cli          the command line: evalib COMMAND
"""

__version__ = "0.1.0"

# Names and their modules, which are imported when a name is asked for: `import evalib` itself loads nothing.
_LATE = {
    "doctor": "evalib.runtime",
    "load": "evalib.classifier",
    "open_app": "evalib.app",
    "train_folder": "evalib.own_images",
    "write_report": "evalib.html_report",
}

TYPE_CHECKING = False  # type checkers take it for True, and so see the names

if TYPE_CHECKING:
    from evalib.app import open_app as open_app
    from evalib.classifier import load as load
    from evalib.html_report import write_report as write_report
    from evalib.own_images import train_folder as train_folder
    from evalib.runtime import doctor as doctor
else:

    def __getattr__(name):
        """A name of `_LATE`, from its module."""
        if name not in _LATE:
            raise AttributeError(f"module 'evalib' has no attribute {name!r}")
        import importlib

        return getattr(importlib.import_module(_LATE[name]), name)

    def __dir__():
        return sorted([*globals(), *_LATE])
