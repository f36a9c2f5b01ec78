"""Losses of distillation that are not ours, for the examples to compare with."""

from keras import ops

from keras_lgg import losses


class AttentionTransfer(losses.GeometryLoss):
    """Both should be active at the same positions (Zagoruyko and Komodakis, ICLR 2017, eq. 2).

    Of layers ``(n, h, w, c)`` of one height and width.
    """

    needs_teacher = True

    def call(self, y_true, y_pred):
        return ops.mean(ops.square(attention(y_true) - attention(y_pred)), axis=1)


def attention(x):
    """Of each sample the energy of its positions, of length 1."""
    energy = ops.mean(ops.square(x), axis=-1)
    return ops.normalize(ops.reshape(energy, (-1, energy.shape[1] * energy.shape[2])), axis=1)


class Dist(losses.GeometryLoss):
    """Probabilities should correlate, of each sample and of each class (DIST).

    Huang et al., "Knowledge distillation from a stronger teacher", NeurIPS 2022, eq. 9 and 10. Of
    logits; like the authors', the values are multiplied by the squared temperature.
    """

    needs_teacher = True

    def __init__(self, temperature=4.0, name="dist"):
        super().__init__(name=name)
        self.temperature = temperature

    def call(self, y_true, y_pred):
        teacher, student = (ops.softmax(x / self.temperature) for x in (y_true, y_pred))
        between = 1 - correlation(teacher, student, axis=1)
        within = 1 - ops.mean(correlation(teacher, student, axis=0))
        return self.temperature**2 * (between + within)


def correlation(x, y, axis):
    """Pearson's, of rows or of columns."""
    x, y = (z - ops.mean(z, axis, keepdims=True) for z in (x, y))
    return ops.sum(ops.normalize(x, axis) * ops.normalize(y, axis), axis)


class DecoupledDistillation(losses.GeometryLoss):
    """Classes other than the right one weigh more than in the divergence of all (DKD).

    Zhao et al., "Decoupled knowledge distillation", CVPR 2022, eq. 7: alpha is 1. Of logits.
    """

    needs_teacher = True
    needs_labels = True

    def __init__(self, beta=8.0, temperature=4.0, name="dkd"):
        super().__init__(name=name)
        self.beta, self.temperature = beta, temperature

    def call(self, y_true, y_pred):
        teacher, labels = y_true
        right = ops.one_hot(labels, teacher.shape[-1], dtype=teacher.dtype)
        logits = [x / self.temperature for x in (teacher, y_pred)]
        target = divergence(*(right_or_not(x, right) for x in logits))
        others = divergence(*(ops.log_softmax(x - 1000 * right) for x in logits))
        return self.temperature**2 * (target + self.beta * others)


def right_or_not(logits, right):
    """The logarithms of the probabilities of the right class and of all others, ``(n, 2)``."""
    log = ops.log_softmax(logits)
    of_right = ops.sum(log * right, axis=1)
    of_others = ops.logsumexp(log - 1000 * right, axis=1)
    return ops.stack([of_right, of_others], axis=1)


def divergence(log_p, log_q):
    """Kullback and Leibler's, of logarithms of probabilities ``(n, c)``."""
    return ops.sum(ops.exp(log_p) * (log_p - log_q), axis=1)
