# what: javac, a jar, and a run of it
# needs: javac
## step: Build
mkdir -p j/x && cd j
printf 'package x;\npublic class Main { public static void main(String[] a) { System.out.println(42); } }\n' > x/Main.java
javac -d classes x/Main.java && jar --create --file x.jar --main-class x.Main -C classes . && java -jar x.jar
