"""A sweep on real data: a softmax regression on scikit-learn's digits at eight learning rates, one run each.

    python docs/examples/sweep.py
    dreamlake report 'sweep/*' -o report.html

The picture in the README is a browser's view of that page. It needs NumPy and scikit-learn, the extra ``demo``.
"""

import numpy as np

from dreamlake import Session
from dreamlake.demo import SoftmaxRegression, load_digits

BATCH = 32
EPOCHS = 20

digits = load_digits()
for number, lr in enumerate(np.geomspace(0.01, 1.0, 8).round(3).tolist()):
    with Session(name=f"lr-{number}", workspace="sweep", tags=["digits"]) as session:
        session.parameters().set(lr=lr, batch_size=BATCH, optimizer="sgd", seed=7)
        model = SoftmaxRegression(digits.train_images.shape[1])
        order = np.random.default_rng(7)
        step = 0
        for _ in range(EPOCHS):
            rows = order.permutation(len(digits.train_images))
            for start in range(0, len(rows) - BATCH + 1, BATCH):
                batch = rows[start : start + BATCH]
                loss, _, _ = model.step(digits.train_images[batch], digits.train_labels[batch], lr)
                session.track("train").append(step=step, loss=loss)
                step += 1
            loss, recall = model.evaluate(digits.val_images, digits.val_labels)
            session.track("val").append(step=step, loss=loss, accuracy=float(recall.mean()))
