// Package answer is what the oracles share: questions and answers as JSON lines, and how a client is described.
//
// The oracles must add no opinion of their own, so this reads what containerd made and judges nothing.
package answer

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
)

type reply struct {
	Result any      `json:"result"`
	Error  string   `json:"error"`
	Log    []string `json:"log"`
}

// Serve answers each line of standard input with one line on standard output, until the input ends.
func Serve[Q any](ask func(Q) (any, error)) {
	input := bufio.NewScanner(os.Stdin)
	input.Buffer(nil, 16<<20)
	output := json.NewEncoder(os.Stdout)
	output.SetEscapeHTML(false)
	for input.Scan() {
		if err := output.Encode(one(input.Bytes(), ask)); err != nil {
			fatal(err)
		}
	}
	if err := input.Err(); err != nil {
		fatal(err)
	}
}

func one[Q any](line []byte, ask func(Q) (any, error)) reply {
	var question Q
	if err := json.Unmarshal(line, &question); err != nil {
		return reply{Error: "the question: " + err.Error(), Log: []string{}}
	}
	takeLog()
	result, err := ask(question)
	log, failure := takeLog()
	switch {
	case err != nil:
		return reply{Error: err.Error(), Log: log}
	case failure != "":
		// containerd goes on with defaults after such a message, and pulls past every mirror.
		return reply{Error: failure, Log: log}
	}
	return reply{Result: result, Log: log}
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
