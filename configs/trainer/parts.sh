#!/bin/bash
# Work by part on SLURM: a job of an array for each part, which knows of no other. With the program's environment active,
# in any folder; the first argument is the number of parts, what follows are the program's own:
#
#   clipsift configs trainer/parts.sh > parts.sh
#   sbatch --array 1-200 parts.sh 200 embed --pool POOL --model ViT-L-14 --pretrained openai --name l14 --out FEATURES
#   sbatch --array 1-200 parts.sh 200 score --config CONFIG --pool FEATURES/metadata --selection.features l14 --out RUN
#
# A part that was killed, preempted or out of time goes on where it was when its number is submitted again (--array 17).
# When all have ended, the same command without --part (embed), and `clipsift select` (score), see that none is missing.
#SBATCH --job-name clipsift
#SBATCH --ntasks 1
#SBATCH --gpus 1
#SBATCH --cpus-per-task 12
#SBATCH --time 24:00:00
#SBATCH --requeue
#SBATCH --open-mode append
#SBATCH --output %x-%A-%a.log

set -u
export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK

total=$1
shift
exec clipsift "$@" --part "$SLURM_ARRAY_TASK_ID/$total"
