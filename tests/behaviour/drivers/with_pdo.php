<?php
// PDO: arguments are the port, the user and the password.
[, $port, $user, $password] = $argv;
try {
    $connection = new PDO("pgsql:host=127.0.0.1;port=$port;dbname=postgres", $user, $password);
    $statement = $connection->prepare("select 6 * ?::int");
    $statement->execute([7]);
    echo $statement->fetchColumn(), "\n";
} catch (PDOException $error) {
    fwrite(STDERR, $error->getMessage() . "\n");
    exit(1);
}
