"""The losses as one writes them down with `keras.ops`: whole matrices, no care for cost."""

from keras import ops


def cosines(x):
    x = x / ops.norm(x, axis=1, keepdims=True)
    similarities = ops.matmul(x, ops.transpose(x))
    return similarities * (1.0 - ops.eye(x.shape[0]))


def distances(x):
    squares = ops.sum(ops.square(x), axis=1)
    gram = ops.matmul(x, ops.transpose(x))
    return ops.sqrt(ops.maximum(squares[:, None] + squares[None, :] - 2 * gram, 1e-12))


def normalized(adjacency):
    weights = ops.rsqrt(ops.sum(adjacency, axis=1))
    return weights[:, None] * adjacency * weights[None, :]


def knn(adjacency, k):
    ranks = ops.argsort(ops.argsort(-adjacency, axis=1), axis=1)
    near = ops.cast(ranks < k, adjacency.dtype)
    return ops.maximum(near, ops.transpose(near))


def label_smoothness(x, labels, *, power, classes=10):
    adjacency = cosines(x)
    laplacian = ops.diag(ops.sum(adjacency, axis=1)) - adjacency
    signal = image = ops.one_hot(labels, classes)
    for _ in range(power):
        image = ops.matmul(laplacian, image)
    return ops.sum(signal * image)


def graph_distillation(student, teacher, *, k=None):
    teacher, student = normalized(cosines(teacher)), normalized(cosines(student))
    mask = 1.0 if k is None else knn(teacher, k)
    return ops.sum(ops.square((student - teacher) * mask))


def graph_variation(first, second, *, k):
    graphs = [normalized(cosines(x)) for x in (first, second)]
    first, second = (graph * knn(graph, k) for graph in graphs)
    return ops.sum(ops.square(second - first))


def target_graph(x, labels):
    wanted = ops.cast(ops.equal(labels[:, None], labels[None, :]), x.dtype)
    return ops.sum(ops.square(cosines(x) - wanted * (1.0 - ops.eye(x.shape[0]))))


def relational_distance(student, teacher):
    pairs = student.shape[0] * (student.shape[0] - 1)
    teacher, student = (d * pairs / ops.sum(d) for d in map(distances, (teacher, student)))
    size = ops.abs(student - teacher)
    return ops.sum(ops.where(size < 1.0, 0.5 * ops.square(size), size - 0.5)) / pairs


def graph_smoothness(x, labels):
    apart = ops.cast(ops.not_equal(labels[:, None], labels[None, :]), x.dtype)
    return ops.sum(ops.exp(-distances(x)) * apart)
